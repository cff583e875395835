# Completion of Renaissance for bash, written by `python run.py completion`.

type compopt &>/dev/null || compopt() { :; }  # bash 3 has none: a space follows each `=`

_renaissance_words() {  # command, setting or "" -> sets words or path
    words= path=
    if [[ -n $2 ]]; then
        case $1:$2 in
        @VALUES@
        esac
        return
    fi
    case $1 in
        @RUNS@
    esac
    case $1 in
        @OWN@
    esac
}

_renaissance_complete() {  # place of run.py in COMP_WORDS
    local place=$1 word=${COMP_WORDS[COMP_CWORD]} key= before= words= path=
    local command=${COMP_WORDS[place + 1]} IFS=$' \t\n'
    if ((COMP_CWORD == place + 1)); then
        words='@COMMANDS@'
    elif ((COMP_CWORD == place + 2)) && [[ $command != with ]]; then
        words='with --help'
    else  # `=` is a word of its own, unless COMP_WORDBREAKS was changed
        if [[ $word == '=' ]]; then
            key=${COMP_WORDS[COMP_CWORD - 1]} word=
        elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == '=' ]]; then
            key=${COMP_WORDS[COMP_CWORD - 2]}
        elif [[ $word == *=* ]]; then
            key=${word%%=*} before=${word%%=*}= word=${word#*=}
        fi
        _renaissance_words "$command" "$key"
    fi
    if [[ -n $path && -z $before ]]; then
        COMPREPLY=()  # files and folders, by the shell's own default
        return
    elif [[ -n $path ]]; then
        compopt -o nospace
        COMPREPLY=($(compgen -P "$before" -f -- "$word"))
        return
    fi
    COMPREPLY=($(compgen -P "$before" -W "$words" -- "$word"))
    # Without a key there may be a config file; a number or a name is no file.
    [[ -z $key ]] || compopt +o default +o bashdefault
    [[ ${COMPREPLY[0]} != *= ]] || compopt -o nospace
}

_renaissance_python() {
    local place word
    for ((place = 1; place < COMP_CWORD; place++)); do
        word=${COMP_WORDS[place]}
        [[ $word == -[bBdEiIOPqsSuvx]* ]] && continue
        word=${word/#\~\//$HOME/}
        if [[ ${word##*/} == run.py && -f ${word%run.py}renaissance/cli/completion.bash ]]; then
            _renaissance_complete "$place"
            return
        fi
        break
    done
    _renaissance_others "$@"
}

# What has completed python before this script: a function by name, for each command.
_renaissance_function() {  # specification of `complete -p` -> its function
    [[ $1 == *' -F '* ]] && set -- ${1#* -F } && [[ $1 != _renaissance_python ]] && echo "$1"
}

_renaissance_others() {  # as bash calls a function: command, word, word before
    local name=${1##*/} variable before loader status
    variable=_renaissance_before_${name//[^a-zA-Z0-9]/_}
    before=${!variable}
    if [[ -z $before ]]; then  # bash-completion loads that of a command when it is first asked for
        loader=$(_renaissance_function "$(complete -p -D 2>/dev/null)")
        [[ -n $loader ]] || return 0
        "$loader" "$@"
        status=$?
        before=$(_renaissance_function "$(complete -p "$name" 2>/dev/null)")
        _renaissance_register "$name"
        [[ $status == 124 && -n $before ]] || return 0
    fi
    "$before" "$@"
}

_renaissance_register() {
    local before
    before=$(_renaissance_function "$(complete -p "$1" 2>/dev/null)")
    [[ -z $before ]] || printf -v "_renaissance_before_${1//[^a-zA-Z0-9]/_}" %s "$before"
    complete -o bashdefault -o default -F _renaissance_python "$1"
}

_renaissance_register python
_renaissance_register python3
