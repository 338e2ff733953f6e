# Finds or makes the Python environment and sets PYTHON to its interpreter; sourced by the scripts, in the repository root.
#
# PYTHON=python3 sh repair.sh    use this interpreter as it is, and install nothing
# otherwise the active virtual or conda environment, or else .venv, made here; what REQUIREMENTS lists is installed into it
REQUIREMENTS=${REQUIREMENTS:-requirements.txt}  # one or several
PROCESSES=${PROCESSES:-1}  # of each training and repair, by torchrun; gpu: one for each GPU of this machine

# a signal ends the script, and not only the command that runs, once that has saved its state
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    echo "error: $1" >&2
    exit 2
}

flag() { # name, value: the flag, or nothing where the value is left to the dataset
    [ -z "$2" ] || [ "$2" = default ] || echo "$1 $2"
}

shared_flags() { # flags: those alone on images, machine and saved states, which each training and repair of one thing takes alike
    valued=  # one whose value comes next
    for flag; do
        if [ -n "$valued" ]; then
            echo "$valued $flag"
            valued=
            continue
        fi
        case $flag in
            --skip_bad | --compile) echo "$flag" ;;
            --img_size=* | --device=* | --precision=* | --num_workers=* | --save_every=*) echo "$flag" ;;
            --img_size | --device | --precision | --num_workers | --save_every) valued=$flag ;;
        esac
    done
}

case $PROCESSES in
    gpu | [1-9] | [1-9][0-9]) ;;
    *) fail "PROCESSES is $PROCESSES; give the number of processes, or gpu for one on each GPU of this machine" ;;
esac

launch() { # script; flags
    case $PROCESSES in
        1) "$PYTHON" "$@" ;;
        *) "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node="$PROCESSES" "$@" ;;
    esac
}

stamp() { # the note that the requirements are installed for the Python that is there; of none, a name that nothing has
    # shellcheck disable=SC2086  # REQUIREMENTS is a list
    echo "$prefix/hybridrepair-$(cat $REQUIREMENTS | cksum | cut -d ' ' -f 1)-$(
        "$prefix/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
}

install_requirements() {
    prefix=${VIRTUAL_ENV:-${CONDA_PREFIX:-.venv}}
    # the name changes with the list and the version of Python, so that for a new one it is installed, and an interrupted
    # installation goes on
    [ -e "$(stamp)" ] && return
    if [ "$prefix" = .venv ]; then
        for base in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
            "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && break
            base=
        done
        [ -n "$base" ] || fail "no Python of version 3.10 or later was found; install one"
        [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1 || "$base" -m venv --clear .venv ||
            fail "$base cannot make the virtual environment .venv; install its venv module (Debian: apt install python3-venv)"
    fi
    echo "installing $REQUIREMENTS into $prefix"
    # shellcheck disable=SC2046,SC2086  # REQUIREMENTS is a list
    "$prefix/bin/python" -m pip install --quiet --disable-pip-version-check $(printf -- '-r %s ' $REQUIREMENTS) ||
        fail "$REQUIREMENTS could not be installed into $prefix; see pip's message above, or give PYTHON=/path/of/a/python that has it"
    touch "$(stamp)" 2>/dev/null || :  # an environment of others', which has it: the next call looks again
}

if [ -z "${PYTHON:-}" ]; then
    # one process installs, others wait for it
    (command -v flock >/dev/null && flock 9; install_requirements) 9>.setup.lock || exit 2
    PYTHON=${VIRTUAL_ENV:-${CONDA_PREFIX:-.venv}}/bin/python
fi
command -v "$PYTHON" >/dev/null || fail "PYTHON is $PYTHON, which cannot be run; give one interpreter, without flags"
export PYTHON
