#!/bin/sh
# A driver in POSIX shell, for a journal: a directory with a file `entries` that writers append lines to, each while it
# holds a shared lock (flock) on the file `lock` beside it. See docs/formats/driver-protocol.md.
#
#   salvor driver test examples/drivers/journal.sh
set -u

state=''
tree=''
holder=''
size=''
own=$(mktemp -d)

# A shell has no parser for JSON: these find a member by its name, wherever it stands, and know no escapes. Good enough
# for paths and numbers that Salvor sends in one line; a serious driver uses a parser.
text() { printf '%s\n' "$line" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
number() { printf '%s\n' "$line" | sed -n "s/.*\"$1\":\(-\{0,1\}[0-9][0-9]*\).*/\1/p"; }

answer() { printf '{"id":%s,"result":%s}\n' "$id" "$1"; }
refuse() { printf '{"id":%s,"error":{"code":"%s","message":"%s"}}\n' "$id" "$1" "$2"; }

bytes() { wc -c <"$1" | tr -d ' '; }
sum() { sha256sum <"$1" | cut -d ' ' -f 1; }
position() { printf '{"kind":"bytes","value":"%s"}' "$1"; }
digest() {
  printf '{"scheme":"journal-lines-v1","parts":{"entries":{"digest":"%s","count":%s}}}' \
    "$(sort "$1" | sha256sum | cut -d ' ' -f 1)" "$(wc -l <"$1" | tr -d ' ')"
}

let_go() {
  held=false
  if [ -n "$holder" ]; then
    # It sleeps with the lock for as long as the hold may last: if it is still there, so is the lock.
    if kill "$holder" 2>/dev/null; then held=true; fi
    wait "$holder" 2>/dev/null
    holder=''
  fi
}

finish() {
  let_go
  rm -rf "$own"
}
trap finish EXIT
# PIPE too: an answer nobody reads any more would end the shell without the line above.
trap 'exit 1' HUP INT PIPE TERM

take_hold() {
  limit=$(awk -v ms="$(number limitMilliseconds)" 'BEGIN { print ms / 1000 }')
  mkfifo "$own/told" 2>/dev/null
  # Not longer than the limit, whoever waits for what: timeout ends the waiting and the sleeping alike.
  (
    exec 9<"$state/lock" </dev/null >/dev/null
    exec timeout "$limit" sh -c 'flock -x 9 && echo held >"$0" && exec sleep 86400' "$own/told"
  ) &
  holder=$!
  if timeout "$limit" head -n 1 "$own/told" 2>/dev/null | grep -q held; then
    answer '{}'
  else
    let_go
    refuse hold-timeout 'somebody has the lock'
  fi
}

restore() {
  source=$(text source)
  target=$(text target)
  if [ ! -f "$source/entries" ]; then
    refuse corrupt 'the copy has no entries'
  elif [ "$(bytes "$source/entries")" != "$(text value)" ] || [ "$(sum "$source/entries")" != "$(text sha256)" ]; then
    refuse corrupt 'the entries are not those that were captured'
  else
    mkdir "$target" && mv "$source/entries" "$target/entries" && : >"$target/lock" && sync
    answer "{\"position\":$(position "$(bytes "$target/entries")"),\"proofs\":[\"every byte, by its SHA-256\"]}"
  fi
}

# Standard input is read here and nowhere else; when it ends, so does this program, and with it its hold.
while IFS= read -r line; do
  id=$(number id)
  case $(text call) in
    hello)
      case $line in
        *'"protocols":[1]'* | *'"protocols":[1,'* | *'"protocols":['*',1]'* | *'"protocols":['*',1,'*)
          state=$(text state)
          answer '{"protocol":1,"program":"journal.sh","version":"1"}' ;;
        *) refuse unsupported 'only version 1 of the protocol is spoken here' ;;
      esac ;;
    traits)
      if [ -f "$state/entries" ]; then
        answer "{\"version\":\"1\",\"hold\":{\"held\":\"an exclusive flock\"},\"sizeBytes\":$(bytes "$state/entries")}"
      else
        refuse unreachable 'there is no journal'
      fi ;;
    capture.prepare)
      tree=$(text directory)
      if [ -f "$state/entries" ]; then answer '{}'; else refuse unreachable 'there is no journal'; fi ;;
    capture.hold) take_hold ;;
    capture.mark)
      size=$(bytes "$state/entries")
      answer "{\"position\":$(position "$size")}" ;;
    capture.release)
      let_go
      answer "{\"held\":$held}" ;;
    capture.finish)
      # Lines are only ever added at the end: the state at the mark is the first part of the file.
      head -c "$size" "$state/entries" >"$tree/entries"
      answer "{\"version\":\"1\",\"position\":$(position "$size"),\"contentDigest\":$(digest "$tree/entries"),\"facts\":{\"sha256\":\"$(sum "$tree/entries")\"}}" ;;
    precheck) answer '{"findings":[]}' ;;
    restore.beside) restore ;;
    restore.digest) answer "{\"contentDigest\":$(digest "$(text target)/entries")}" ;;
    status) answer '{"running":false}' ;;
    restore.discard | start | stop) answer '{}' ;;

    test.begin)
      state=$(text directory)/journal
      mkdir "$state" && : >"$state/lock"
      for n in 1 2 3 4 5; do echo "$n salvor-record-$n-of-the-contract"; done >"$state/entries"
      answer "{\"state\":\"$state\",\"held\":true,\"server\":false}" ;;
    test.write)
      (
        flock -s 9
        echo "$(number number) $(text payload)" >>"$state/entries"
      ) 9<"$state/lock"
      answer '{}' ;;
    test.records) answer "{\"numbers\":[$(cut -d ' ' -f 1 "$state/entries" | paste -s -d , -)]}" ;;
    test.end) answer '{}' ;;
    *) refuse unsupported 'no such call' ;;
  esac
done
