# Holds one program as its child and outlives whoever started it.
#
#   supervisor.sh FOLDER ASK GRACE PROGRAM [ARGUMENT...]
#
# Standard input is a pipe that the starter holds open. When it ends, for whatever reason (the starter dropped it, was
# interrupted or killed), the program is asked to stop with the signal ASK, killed after GRACE seconds, and FOLDER is
# removed. Standard error reports `pid N` and `exit N`; the program's own output goes to standard output.
folder=$1 ask=$2 grace=$3
shift 3
exec 3<&0 </dev/null

"$@" 2>&1 3<&- &
program=$!
# The starter may be gone when the lines below are written; that must not stop the clean-up.
trap '' PIPE
echo "pid $program" >&2

(
    while read -r _ <&3; do :; done
    trap 'kill "$timer"; exit' TERM
    kill -s "$ask" "$program"
    kill -s CONT "$program"
    sleep "$grace" &
    timer=$!
    wait "$timer"
    kill -s KILL "$program"
) >/dev/null 2>&1 &
watcher=$!

wait "$program"
code=$?
kill "$watcher" 2>/dev/null
wait "$watcher"
echo "exit $code" >&2

# The program may be started again in the same folder; then its new supervisor owns the folder, and says so by a line.
read -r _ <&3 && exit 0
[ -z "$folder" ] || rm -rf -- "$folder"
