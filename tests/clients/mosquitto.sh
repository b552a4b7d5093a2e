#!/usr/bin/env bash
# Checks a running broker with mosquitto_pub and mosquitto_sub.
# Usage: mosquitto.sh URL [--ca FILE] [--cert FILE --key FILE] [--user NAME --password WORD] [--identity NAME]
# [--only PART-OF-A-NAME]. URL is mqtt://, mqtts:// or unix://; --identity is the user that the broker must know the client as.
# Prints `ok NAME` or `FAIL NAME why` a check; exits 1 after a FAIL.
set -uo pipefail

url=${1:?URL}
shift
declare -A options=()
while (($# >= 2)); do
    options[${1#--}]=$2
    shift 2
done
only=${options[only]:-}
rest=${url#*://}
case $url in
unix://*) way=(--unix "$rest") ;;
*) way=(-h "${rest%:*}" -p "${rest##*:}") ;;
esac
to=("${way[@]}")
# What names the client: the checks of refusals leave it out.
authority=() certificate=() login=()
[ -z "${options[ca]:-}" ] || authority=(--cafile "${options[ca]}")
[ -z "${options[cert]:-}" ] || certificate=(--cert "${options[cert]}" --key "${options[key]}")
[ -z "${options[user]:-}" ] || login=(-u "${options[user]}" -P "${options[password]}")
to+=("${authority[@]}" "${certificate[@]}" "${login[@]}")

patience_s=20
failed=0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

sub() { mosquitto_sub "${to[@]}" -V "$version" -W "$patience_s" "$@"; }
pub() { mosquitto_pub "${to[@]}" -V "$version" "$@"; }

# Starts a subscriber in the background that writes to FILE, and returns when its SUBACK is in.
# Usage: sub_background FILE ARGS...; the process id is in $child, which ends by itself when patience does.
sub_background() {
    local out=$1
    shift
    : >"$out.log"
    # -d tells about SUBACK; stdbuf because the log is a file.
    stdbuf -oL mosquitto_sub "${to[@]}" -V "$version" -W "$patience_s" -d -F '>%t %q %r %p' "$@" >"$out.log" 2>&1 &
    child=$!
    wait_for "$out.log" '^Subscribed '
}

# Waits until FILE has a line that matches PATTERN.
wait_for() {
    local deadline=$((SECONDS + patience_s))
    until grep -qE "$2" "$1" 2>/dev/null; do
        if ((SECONDS > deadline)); then
            echo "no line like $2 within ${patience_s} s, only: $(head -c 300 "$1" 2>/dev/null | tr '\n' ' ')"
            return 1
        fi
        sleep 0.02
    done
}

# Fails with both values unless they are the same.
same() {
    [[ $1 == "$2" ]] && return
    echo "$3: expected '$(head -c 200 <<<"$1" | tr '\n' ' ')', got '$(head -c 200 <<<"$2" | tr '\n' ' ')'"
    return 1
}

# What a background subscriber printed about messages.
messages() { sed -n 's/^>//p' "$1.log"; }

check() {
    local name="$1 ($version)"
    shift
    [[ $name == *"$only"* ]] || return
    local why
    if why=$("$@" 2>&1); then
        echo "ok $name"
    else
        echo "FAIL $name $(tail -n 3 <<<"$why" | tr '\n' ' ')"
        failed=1
    fi
}

qos_both_ways() {
    local qos=$1 out=$dir/qos-$1-$version topic=mosq/qos/$version/$1
    sub_background "$out" -t "$topic" -q "$qos" -C 5 || return
    local n
    for n in 1 2 3 4 5; do
        pub -t "$topic" -q "$qos" -m "message $n" || return
    done
    wait "$child" || { echo "mosquitto_sub ended with $?"; return 1; }
    same "$(for n in 1 2 3 4 5; do echo "$topic $qos 0 message $n"; done)" "$(messages "$out")" "messages"
}

many_lines_in_order() {
    local out=$dir/lines-$version topic=mosq/lines/$version
    sub_background "$out" -t "$topic" -q 1 -C 500 || return
    seq 500 | pub -t "$topic" -q 1 -l || return
    wait "$child" || { echo "mosquitto_sub ended with $?"; return 1; }
    same "$(seq 500)" "$(messages "$out" | awk '{ print $4 }')" "order"
}

retained() {
    local topic=mosq/retained/$version
    pub -t "$topic" -q 1 -r -m first || return
    same "$topic 1 first" "$(sub -t "$topic" -q 1 -C 1 -F '%t %r %p')" "retained set" || return
    pub -t "$topic" -q 1 -r -m second || return
    same "$topic 1 second" "$(sub -t "$topic" -q 1 -C 1 -F '%t %r %p')" "retained replaced" || return
    pub -t "$topic" -q 1 -r -n || return
    # The marker comes after whatever the cleared topic would have sent.
    pub -t "$topic/marker" -q 1 -r -m marker || return
    same "$topic/marker 1 marker" "$(sub -t "$topic" -t "$topic/marker" -q 1 -C 1 -F '%t %r %p')" "retained cleared" || return
    pub -t "$topic/marker" -q 1 -r -n
}

will_after_a_lost_connection() {
    local topic=mosq/will/$version
    sub_background "$dir/will-$version" -t "$topic" -q 1 -C 1 || return
    local witness=$child
    sub_background "$dir/dying-$version" -t nothing/comes --will-topic "$topic" --will-payload gone --will-qos 1 || return
    kill -9 "$child"
    wait "$witness" || { echo "no will came"; return 1; }
    same "$topic 1 0 gone" "$(messages "$dir/will-$version")" "will"
}

persistent_session() {
    local qos=$1 topic=mosq/session/$version/$1 id=mosq-session-$version-$1
    local session=(-c -i "$id" -q "$qos" -t "$topic")
    [[ $version == mqttv5 ]] && session+=(-x 600)
    sub "${session[@]}" -E || return
    local n
    for n in 1 2 3 4 5 6 7 8 9 10; do
        pub -t "$topic" -q "$qos" -m "offline $n" || return
    done
    same "$(for n in 1 2 3 4 5 6 7 8 9 10; do echo "offline $n"; done)" "$(sub "${session[@]}" -C 10)" "offline messages"
}

large_payload() {
    local qos=$1 topic=mosq/large/$version/$1 id=mosq-large-$version-$1
    local session=(-c -i "$id" -q "$qos" -t "$topic")
    [[ $version == mqttv5 ]] && session+=(-x 600)
    head -c 262144 /dev/urandom >"$dir/large"
    sub "${session[@]}" -E || return
    pub -t "$topic" -q "$qos" -f "$dir/large" || return
    sub "${session[@]}" -C 1 -N >"$dir/received" || return
    cmp "$dir/large" "$dir/received"
}

user_properties() {
    local topic=mosq/properties out=$dir/properties
    sub_background "$out" -t "$topic" -q 1 -C 1 -F '>%t %q %r %p %P' || return
    pub -t "$topic" -q 1 -m hello -D publish user-property b 2 -D publish user-property a 1 || return
    wait "$child" || { echo "mosquitto_sub ended with $?"; return 1; }
    case "$(messages "$out")" in
    "$topic 1 0 hello b:2 a:1"*) ;;
    *) echo "user properties: expected b:2 a:1 in this order, got '$(messages "$out")'" && return 1 ;;
    esac
}

shared_subscription() {
    local topic=mosq/shared/$version one two n
    sub_background "$dir/one-$version" -t "\$share/mosq/$topic" -q 1 || return
    one=$child
    sub_background "$dir/two-$version" -t "\$share/mosq/$topic" -q 1 || return
    two=$child
    seq 200 | pub -t "$topic" -q 1 -l || return
    for ((n = 0; n < patience_s * 50; n++)); do
        (($(messages "$dir/one-$version" | wc -l) + $(messages "$dir/two-$version" | wc -l) >= 200)) && break
        sleep 0.02
    done
    kill "$one" "$two"
    wait "$one" "$two"
    same "$(seq 200)" "$( (messages "$dir/one-$version" && messages "$dir/two-$version") | awk '{ print $4 }' | sort -n)" "each line once"
}

# The user that the broker names to the recipients of a message in a conversation.
identity() {
    local topic=im/mosq-identity out=$dir/identity
    sub_background "$out" -t "$topic" -q 1 -C 1 -F '>%t %P' || return
    pub -t "$topic" -q 1 -m hello || return
    wait "$child" || { echo "mosquitto_sub ended with $?"; return 1; }
    [[ " $(messages "$out") " == *" im-from:$1 "* ]] || { echo "no im-from:$1 in '$(messages "$out")'" && return 1; }
}

# One publish with these arguments instead of those of the command line must fail, and soon.
refused() {
    local out
    if out=$(timeout "$patience_s" mosquitto_pub "${way[@]}" "$@" -V "$version" -t mosq/refused -q 1 -m "let me in" 2>&1); then
        echo "it was let in: $out" && return 1
    fi
}

for version in mqttv311 mqttv5; do
    for qos in 0 1 2; do check "qos $qos both ways" qos_both_ways "$qos"; done
    check "500 lines in order" many_lines_in_order
    check "retained set, replaced, cleared" retained
    check "will after a lost connection" will_after_a_lost_connection
    for qos in 1 2; do check "persistent session, qos $qos offline" persistent_session "$qos"; done
    for qos in 1 2; do check "256 KB payload, qos $qos" large_payload "$qos"; done
    check "shared subscription" shared_subscription
    if ((${#authority[@]})); then
        for tls in tlsv1.2 tlsv1.3; do check "$tls" pub --tls-version "$tls" -t mosq/tls -q 1 -m hello; done
        check "no client that does not know the authority" refused --capath "$dir" "${certificate[@]}" "${login[@]}"
    fi
    if ((${#certificate[@]})); then
        check "no connection without a certificate" refused "${authority[@]}" "${login[@]}"
    fi
    if ((${#login[@]})); then
        check "no connection with a wrong password" refused "${authority[@]}" "${certificate[@]}" -u "${options[user]}" -P wrong
        check "no connection without a user" refused "${authority[@]}" "${certificate[@]}"
    fi
done
version=mqttv5
check "user properties in order" user_properties
[ -z "${options[identity]:-}" ] || check "the broker knows the user" identity "${options[identity]}"
exit "$failed"
