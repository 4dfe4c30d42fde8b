#!/usr/bin/env bash
# Builds the program with one check removed, for each patch beside this file (or those named), and
# runs the faults that must notice. Ends with a table of what each fault saw; fails if a mutation was
# noticed by none.
#
# Everything, the tests too, comes from a copy of the sources that is taken at the start: edits made
# meanwhile change nothing. SEED, MUTATIONS_DIR and MUTATIONS_TARGET may be given.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
seed=${SEED:-1}
work=${MUTATIONS_DIR:-${TMPDIR:-/tmp}/sluice-mutations}
target=${MUTATIONS_TARGET:-$work/target}
began=$SECONDS

say() { echo "mutations: $(date +%T) $*" >&2; }
fail() { say "$*"; exit 1; }

rm -rf "$work/source" "$work/log" "$work/bin"
mkdir -p "$work/source" "$work/log" "$work/bin/deps"
# All files count as new, or what an earlier run has built from a patched file would be taken for
# what the file holds now.
tar -C "$root" --exclude ./target --exclude ./.git -cf - . | tar -C "$work/source" -xmf - || exit 1
cd "$work/source" || exit 1
patches=tests/mutations
names=("$@")
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(cd "$patches" && ls ./*.patch | sed 's|^./||; s|\.patch$||')
for name in "${names[@]}"; do
  patch -p1 -s --dry-run < "$patches/$name.patch" > /dev/null || fail "$name does not apply"
done

# Without debug information builds and links take half as long, and a target of its own leaves the
# other builds alone.
build() {
  local log=$1
  shift
  CARGO_TARGET_DIR="$target" CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0 \
    cargo "$@" --locked > "$work/log/$log.build" 2>&1 \
    || { tail -30 "$work/log/$log.build" >&2; fail "$log does not build"; }
}

say "building the tests, and the program as it is"
build tests test -p sluice-tests --test chaos --no-run
build sluice build -p sluice
chaos=$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$work/log/tests.build" | tail -1)
# The tests look for the program in the directory above their own.
cp "$chaos" "$work/bin/deps/chaos" && cp "$target/debug/sluice" "$work/bin/sluice" || exit 1

uncaught=0
table=$'mutation\tfault\twhat it saw'
for name in "${names[@]}"; do
  say "building $name"
  patch -p1 -s < "$patches/$name.patch" || fail "$name does not apply"
  build "$name" build -p sluice
  cp "$target/debug/sluice" "$work/bin/$name" || exit 1
  patch -p1 -s -R < "$patches/$name.patch" || fail "$name cannot be taken back"

  mapfile -t faults < <(sed -n 's/^Faults: //p' "$patches/$name.patch" | sed 's/; */\n/g')
  only=()
  for fault in "${faults[@]}"; do only+=(--only "$fault"); done
  say "running $name: $(IFS=';'; echo "${faults[*]}")"
  log="$work/log/$name.run"
  "$work/bin/deps/chaos" "$seed" --sluice "$work/bin/$name" "${only[@]}" > "$log" 2>&1
  failed=$?
  caught=0
  for fault in "${faults[@]}"; do
    # A line "WRONG: fault: what was seen"; names may be given in part.
    seen=$(sed -n 's/^WRONG: //p' "$log" | grep -F "$fault" | head -1 | cut -c1-200)
    if [ "$failed" -ne 0 ] && [ -n "$seen" ]; then
      caught=1
      table+=$'\n'"$name"$'\t'"$fault"$'\t'"${seen#*"$fault"*: }"
    elif grep -F 'SKIPPED' "$log" | grep -qF "$fault"; then
      table+=$'\n'"$name"$'\t'"$fault"$'\t(could not be made here)'
    else
      table+=$'\n'"$name"$'\t'"$fault"$'\tNOTHING, see '"$log"
    fi
  done
  [ "$caught" -eq 1 ] || uncaught=1
done
echo "$table" | column -t -s $'\t'
say "${#names[@]} mutations in $((SECONDS - began)) s"
exit $uncaught
