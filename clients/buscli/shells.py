"""What shells are told about completion: a short script each, and the lines that it reads.

The script of ``PROGRAM`` calls ``PROGRAM __complete WORD...`` with the words after its name, the last one being typed.
What that prints are candidates, one a line, each with a tab and a description where there is one; the line ``:file``
asks the shell to complete a path.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

__all__ = ["FILE", "SHELLS", "Offer", "assigned", "matching", "script"]

FILE: Final = ":file"

_BASH: Final = r"""# bash completion for PROGRAM. Load it with: source <(PROGRAM completion bash)
_PROGRAM() {
    local line=${COMP_LINE:0:COMP_POINT} current=${COMP_WORDS[COMP_CWORD]} words=() word rest head
    # readline takes a:b and --a=b for several words: what nothing stands between is one.
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if [[ ${#words[@]} == 0 || $line == [[:space:]]* ]]; then
            words+=("$word")
            line=${line#"${line%%[![:space:]]*}"}
        else
            words[-1]+=$word
        fi
        line=${line#"$word"}
    done
    [[ $current =~ ^[:=]+$ ]] && current=
    head=${words[-1]%"$current"} # what readline keeps: offers come without it
    COMPREPLY=()
    while IFS=$'\t' read -r word rest; do
        if [[ $word == :file ]]; then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
        elif [[ -n $word ]]; then
            COMPREPLY+=("${word#"$head"}")
        fi
    done < <("$1" __complete "${words[@]:1}" 2>/dev/null)
}
complete -F _PROGRAM PROGRAM
"""

_ZSH: Final = r"""#compdef PROGRAM
# zsh completion for PROGRAM. Put it in a directory of $fpath as _PROGRAM, or: source <(PROGRAM completion zsh)
_PROGRAM() {
    local line
    local -a offers
    for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $line in
            (:file) compset -P '--*='; compset -P 'unix://'; _files ;;
            (*$'\t'*) offers+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
            (?*) offers+=("${line//:/\\:}") ;;
        esac
    done
    (( $#offers )) && _describe PROGRAM offers
}
if [[ $funcstack[1] == _PROGRAM ]]; then _PROGRAM "$@"; else compdef _PROGRAM PROGRAM; fi
"""

_FISH: Final = r"""# fish completion for PROGRAM. Save it as ~/.config/fish/completions/PROGRAM.fish
function __PROGRAM_complete
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    for line in ($words[1] __complete $words[2..-1] "$typed" 2>/dev/null)
        if test "$line" = ":file"
            set -l head (string match -r -- '^--[^=]+=' "$typed")
            for path in (__fish_complete_path (string replace -r -- '^--[^=]+=' '' "$typed"))
                echo "$head$path"
            end
        else
            echo $line
        end
    end
end
complete -c PROGRAM -f -a '(__PROGRAM_complete)'
"""

_SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

SHELLS: Final = tuple(_SCRIPTS)


class Offer(NamedTuple):
    """One candidate."""

    word: str
    says: str = ""

    @property
    def line(self) -> str:
        """As the script reads it."""
        return f"{self.word}\t{self.says}" if self.says else self.word


def matching(typed: str, offers: Iterable[Offer]) -> Iterator[Offer]:
    """Those of ``offers`` that go on from what is typed."""
    return (offer for offer in offers if offer.word == FILE or offer.word.startswith(typed))


def assigned(option: str, value: str, offers: Iterable[Offer]) -> Iterator[Offer]:
    """Those of ``offers`` that go on from ``value``, where ``option=value`` is typed."""
    found = matching(value, offers)
    return (offer if offer.word == FILE else Offer(f"{option}={offer.word}", offer.says) for offer in found)


def script(shell: str, program: str = "bus") -> str:
    """The completion script of ``program`` for ``shell``, one of `SHELLS`."""
    return _SCRIPTS[shell].replace("PROGRAM", program)
