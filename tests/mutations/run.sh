#!/usr/bin/env bash
# Builds the program with one check removed, for each patch beside this file (or those named), and
# runs the faults that must notice. Ends with a table of what caught each; fails if one was not.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
seed=${SEED:-1}
work=${MUTATIONS_DIR:-${TMPDIR:-/tmp}/sluice-mutations}
target=${MUTATIONS_TARGET:-$work/target}
names=("$@")
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(cd "$here" && ls ./*.patch | sed 's|^./||; s|\.patch$||')

mkdir -p "$work/bin" "$work/log"
rm -rf "$work/source" && mkdir "$work/source"
tar -C "$root" --exclude ./target --exclude ./.git -cf - . | tar -C "$work/source" -xf -

cd "$root"
cargo build --locked -p sluice || exit 1
for name in "${names[@]}"; do
  echo "mutations: building $name" >&2
  rm -f "$work/bin/$name"
  patch -d "$work/source" -p1 -s < "$here/$name.patch" || { echo "$name does not apply" >&2; exit 1; }
  (cd "$work/source" && CARGO_TARGET_DIR="$target" cargo build --locked -p sluice) \
    > "$work/log/$name.build" 2>&1 || { tail -30 "$work/log/$name.build" >&2; exit 1; }
  cp "$target/debug/sluice" "$work/bin/$name"
  patch -d "$work/source" -p1 -s -R < "$here/$name.patch"
done

uncaught=0
table=$'mutation\tcaught by\twhat it saw'
for name in "${names[@]}"; do
  mapfile -t faults < <(sed -n 's/^Faults: //p' "$here/$name.patch" | sed 's/; */\n/g')
  only=()
  for fault in "${faults[@]}"; do only+=(--only "$fault"); done
  echo "mutations: running $name: ${faults[*]}" >&2
  cargo test --locked -q -p sluice-tests --test chaos -- "$seed" --sluice "$work/bin/$name" "${only[@]}" \
    > "$work/log/$name.run" 2>&1
  caught=$?
  seen=$(sed -n 's/^WRONG: //p' "$work/log/$name.run" | head -1 | cut -c1-160)
  if [ "$caught" -eq 0 ] || [ -z "$seen" ]; then
    table+=$'\n'"$name"$'\tNOTHING\tsee '"$work/log/$name.run"
    uncaught=1
  else
    table+=$'\n'"$name"$'\t'"${seen%%: *}"$'\t'"${seen#*: }"
  fi
done
echo "$table" | column -t -s $'\t'
exit $uncaught
