"""Shell completion: what may stand at the cursor, and the few lines of each shell that ask for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from orchestrate.cli.groups import groups
from orchestrate.cli.schema import all_keys
from orchestrate.cli.verbs import FLAGS, GLOBAL_FLAGS, VERBS, Verb, verb_of

_BASH = """\
_orchestrate() {
    # COMP_WORDS is split at every "="; what follows wants whole words, so they are taken from the line.
    local line=${COMP_LINE:0:COMP_POINT} words found word
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[${#words[@]} - 1]}
    COMPREPLY=()
    while IFS= read -r found; do
        [[ -n $found ]] && COMPREPLY+=("$found")
    done < <("${words[0]}" --completion words "${words[@]:1}" 2> /dev/null)
    # readline replaces only what stands after its last word break.
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*=}"}"}")
    fi
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=.] ]]; then
        compopt -o nospace 2> /dev/null
    fi
}
complete -o default -F _orchestrate orchestrate"""

_ZSH = """\
#compdef orchestrate
_orchestrate() {
    local -a found open closed
    found=("${(@f)$("${words[1]}" --completion words "${(@)words[2,CURRENT]}" 2> /dev/null)}")
    open=(${(M)found:#*[=.]})
    closed=(${found:#*[=.]})
    (( $#open )) && compadd -S '' -- $open
    (( $#closed )) && compadd -- $closed
    (( $#open + $#closed )) || { compset -P '*='; _files }
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _orchestrate orchestrate"""

_FISH = """\
function __orchestrate
    set -l words (commandline -opc) (commandline -ct)
    $words[1] --completion words $words[2..-1] 2> /dev/null
end
complete -c orchestrate -a '(__orchestrate)'"""


def script(shell: str) -> str:
    """What ``shell`` (bash, zsh or fish) has to evaluate."""
    return {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]


def complete(words: Sequence[str]) -> list[str]:
    """What the last of ``words``, perhaps empty, may become; ``words`` are those after the command's name."""
    *before, word = words or [""]
    return sorted(candidate for candidate in _candidates(before, word) if candidate.startswith(word))


def _candidates(before: list[str], word: str) -> Iterator[str]:
    names = [verb.words for verb in VERBS]
    following = {
        name[len(before)] for name in names if len(name) > len(before) and name[: len(before)] == before
    }
    if following:
        yield from following
    if not before:
        if word:
            yield from (name for flag in (*GLOBAL_FLAGS, FLAGS[0]) for name in flag.names)
        return
    for flag in (*FLAGS, *GLOBAL_FLAGS):
        if before[-1] in flag.names and flag.value:
            yield from flag.choices
            return
    verb = verb_of(before)
    if verb is None:
        return
    if word.startswith("-"):
        yield from (name for flag in FLAGS for name in flag.names)
    else:
        yield from _overrides(word, _folders(before))
        yield from _short(word, verb)


def _overrides(word: str, folders: Sequence[Path]) -> Iterator[str]:
    sign = word[0] if word[:1] in ("+", "~") else ""
    known = groups(folders)
    key, equals, value = word[len(sign) :].partition("=")
    if equals:
        # In a sweep (model=gpt_tiny,gpt2) it is the last value that is being typed.
        done = value[: value.rfind(",") + 1]
        choices = known.get(key) or next((k.choices for k in all_keys() if k.path == key), ())
        yield from (f"{sign}{key}={done}{choice}" for choice in choices)
        return
    yield from (f"{sign}{group}=" for group in known)
    if "." in key:
        yield from (f"{sign}{k.path}=" for k in all_keys())
    else:
        yield from {f"{sign}{k.section}." if k.section else f"{sign}{k.path}=" for k in all_keys()}
        if not sign:
            yield "plan="


def _short(word: str, verb: Verb) -> Iterator[str]:
    for name, key in verb.short_names().items():
        yield f"{name}="
        if word.startswith(f"{name}="):
            yield from (f"{name}={choice}" for choice in key.choices)


def _folders(words: Sequence[str]) -> list[Path]:
    flag = next(flag for flag in FLAGS if "--config-dir" in flag.names)
    return [Path(folder) for name, folder in pairwise(words) if name in flag.names and Path(folder).is_dir()]
