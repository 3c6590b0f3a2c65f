#!/bin/bash
# gitrel's format 1, written a second time from docs/spec/ alone: stock git, ssh-keygen and coreutils, no gitrel.
#
#   stranger.sh trust APP THRESHOLD NAME.pub...   the next trust record: these people hold every role, THRESHOLD of
#                                                 them release; prints the pin
#   stranger.sh config FOLDER                     the next config record: an envdir
#   stranger.sh build FOLDER SOURCE               a build record of what is in FOLDER; prints its id
#   stranger.sh release BUILD SUBJECT [vN]        the next release, of that build and the newest config, under trust vN
#   stranger.sh approve vN                        one more signature under a release
#   stranger.sh verify PIN                        the whole ledger of the deploy production, from the pin
#
# It works in the repository of the current folder, in either object format, and signs as git does: user.signingkey
# is the path of an SSH key. An ECDSA signature has to have its lower s (signature.md); with such a key, sign until
# it does. `verify` reads no trust.toml, so it does not tell one role from another, nor count signatures.
set -euo pipefail
shopt -s inherit_errexit nullglob dotglob
export GIT_NO_REPLACE_OBJECTS=1 LC_ALL=C
tab=$'\t'
GIT_DIR=$(git rev-parse --absolute-git-dir)
export GIT_DIR
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git init -q --bare --object-format=sha256 "$scratch/sha256.git"
in_sha256() { GIT_DIR="$scratch/sha256.git" git "$@"; }

die() {
    printf 'refused: %s\n' "$*" >&2
    exit 10
}

# ---- ids (record.md, "Ids"; tree.md, "Tree-SHA256")

sha256_of() { # KIND OID: SHA-256 over the object with git's header
    {
        printf '%s %s\0' "$1" "$(git cat-file -s "$2")"
        git cat-file "$1" "$2"
    } | sha256sum | cut -c 1-64
}

id_of() { # OID or ref of a commit: the two ids that name a record
    local oid
    oid=$(git rev-parse --verify -q "$1")
    printf '%s %s' "$oid" "$(sha256_of commit "$oid")"
}

store() { # FOLDER: its tree, byte for byte, empty folders too
    local path name
    for path in "$1"/*; do
        name=${path##*/}
        if [ -L "$path" ]; then
            printf '120000 blob %s\t%s\0' "$(readlink -n "$path" | git hash-object -w --stdin)" "$name"
        elif [ -d "$path" ]; then
            printf '40000 tree %s\t%s\0' "$(store "$path")" "$name"
        elif [ -x "$path" ]; then
            printf '100755 blob %s\t%s\0' "$(git hash-object -w --no-filters "$path")" "$name"
        else
            printf '100644 blob %s\t%s\0' "$(git hash-object -w --no-filters "$path")" "$name"
        fi
    done | git mktree -z
}

sha256_tree() { # TREE: the id it would have in a SHA-256 repository; worked out once
    [ -e "$scratch/twin-$1" ] || twin_of "$1" >"$scratch/twin-$1"
    cat "$scratch/twin-$1"
}

twin_of() { # TREE
    git ls-tree "$1" | while IFS= read -r line; do
        local head=${line%%"$tab"*} twin
        local mode_kind=${head% *} oid=${head##* }
        case $mode_kind in
            *tree) twin=$(sha256_tree "$oid") ;;
            *) twin=$(git cat-file blob "$oid" | in_sha256 hash-object -w --stdin) ;;
        esac
        printf '%s %s\t%s\n' "$mode_kind" "$twin" "${line#*"$tab"}"
    done | in_sha256 mktree
}

# ---- records (record.md)

newest() { # PREFIX: the number of the newest entry, 0 without any
    local n=0
    while git rev-parse --verify -q "$1$((n + 1))" >"$scratch/oid"; do n=$((n + 1)); done
    echo "$n"
}

previous() { # PREFIX N: the trailer of entry N, nothing for the first
    if [ "$2" -gt 1 ]; then printf 'Previous: %s\n' "$(id_of "$1$(($2 - 1))")"; fi
}

trust_in_force() { # [vN]: as others cite it, by default the newest
    local entry=${1:-v$(newest refs/trust/v)}
    printf '%s %s' "$entry" "$(id_of "refs/trust/$entry")"
}

before() { if [ "$2" -gt 1 ]; then git rev-parse "$1$(($2 - 1))"; fi; } # PREFIX N: the entry before N, if there is one

app() { trailer "$(git rev-parse refs/trust/v1)" App; }

record() { # TREE SUBJECT [PARENT...], trailers on stdin: a signed commit; Tree-SHA256 is always the last trailer
    local tree=$1 subject=$2 parent
    local parents=()
    for parent in "${@:3}"; do parents+=(-p "$parent"); done
    {
        printf '%s\n\n' "$subject"
        cat
        printf 'Tree-SHA256: %s\n' "$(sha256_tree "$tree")"
    } >"$scratch/message"
    git -c gpg.format=ssh commit-tree -S "${parents[@]}" -F "$scratch/message" "$tree"
}

create() { git update-ref "$1" "$2" ''; } # only if it does not exist yet

make_trust() { # APP THRESHOLD NAME.pub...
    local app=$1 threshold=$2 folder=$scratch/trust key names='' n head
    n=$(($(newest refs/trust/v) + 1))
    head=$(newest refs/releases/v)
    mkdir "$folder"
    for key in "${@:3}"; do names+="${names:+, }\"$(basename "$key" .pub)\""; done
    {
        printf 'format = 1\napp = "%s"\n' "$app"
        for key in "${@:3}"; do
            printf '[people.%s]\nkeys = ["%s"]\n' "$(basename "$key" .pub)" "$(cut -d ' ' -f 1,2 "$key")"
        done
        printf '[roles]\nroot = { people = [%s], threshold = 1 }\n' "$names"
        printf 'build = { people = [%s], threshold = 1 }\n' "$names"
        printf '[deploys.production]\nrelease = { people = [%s], threshold = %s }\n' "$names" "$threshold"
        printf 'config = { people = [%s], threshold = 1 }\n' "$names"
    } >"$folder/trust.toml"
    for key in "${@:3}"; do
        printf '%s namespaces="git" %s\n' "$(basename "$key" .pub)" "$(cut -d ' ' -f 1,2 "$key")"
    done | sort >"$folder/allowed_signers"
    create "refs/trust/v$n" "$(
        {
            printf 'Gitrel-Record: trust\nGitrel-Format: 1\nApp: %s\nEntry: v%s\n' "$app" "$n"
            previous refs/trust/v "$n"
            if [ "$head" -gt 0 ]; then printf 'Head: production v%s %s\n' "$head" "$(id_of "refs/releases/v$head")"; fi
        } | record "$(store "$folder")" "Trust v$n of $app" $(before refs/trust/v "$n")
    )"
    sha256_of commit refs/trust/v1
}

make_config() { # FOLDER
    local n
    n=$(($(newest refs/config/v) + 1))
    create "refs/config/v$n" "$(
        {
            printf 'Gitrel-Record: config\nGitrel-Format: 1\nApp: %s\n' "$(app)"
            printf 'Deploy: production\nEntry: v%s\n' "$n"
            previous refs/config/v "$n"
            printf 'Trust: %s\n' "$(trust_in_force)"
        } | record "$(store "$1")" "Config v$n" $(before refs/config/v "$n")
    )"
}

make_build() { # FOLDER SOURCE
    local folder=$scratch/record source build oid
    source=$(git rev-parse --verify "$2^{commit}")
    mkdir "$folder"
    cp -a "$1" "$folder/build"
    build=$(store "$folder/build")
    cat >"$folder/provenance.json" <<JSON
{"_type": "https://in-toto.io/Statement/v1",
 "subject": [{"name": "build", "digest": {"gitTree": "$build", "sha256": "$(sha256_tree "$build")"}}],
 "predicateType": "https://slsa.dev/provenance/v1",
 "predicate": {
  "buildDefinition": {
   "buildType": "https://example.org/by-hand",
   "externalParameters": {"source": {"digest": {"gitCommit": "$source"}}},
   "resolvedDependencies": [{"digest": {"gitCommit": "$source"}}]},
  "runDetails": {"builder": {"id": "https://example.org/stranger"}}}}
JSON
    oid=$(
        printf 'Gitrel-Record: build\nGitrel-Format: 1\nApp: %s\nSource: %s\nTrust: %s\n' \
            "$(app)" "$source" "$(trust_in_force)" | record "$(store "$folder")" "Build of ${source:0:12}"
    )
    create "refs/builds/$oid" "$oid"
    echo "$oid"
}

make_release() { # BUILD SUBJECT [vN]
    local n config tree parents=()
    n=$(($(newest refs/releases/v) + 1))
    config=$(newest refs/config/v)
    parents+=($(before refs/releases/v "$n") "$1")
    tree=$(
        {
            git ls-tree "$1" build
            if [ "$config" -gt 0 ]; then
                tree=$(git rev-parse "refs/config/v$config^{tree}")
                if [ -n "$(git ls-tree "$tree")" ]; then printf '40000 tree %s\tconfig\n' "$tree"; fi
            fi
        } | git mktree
    )
    if [ "$config" -gt 0 ]; then parents+=("$(git rev-parse "refs/config/v$config")"); fi
    create "refs/releases/v$n" "$(
        {
            printf 'Gitrel-Record: release\nGitrel-Format: 1\nApp: %s\n' "$(app)"
            printf 'Deploy: production\nEntry: v%s\n' "$n"
            previous refs/releases/v "$n"
            printf 'Build: %s\n' "$(id_of "$1")"
            if [ "$config" -gt 0 ]; then printf 'Config: v%s %s\n' "$config" "$(id_of "refs/config/v$config")"; fi
            printf 'Trust: %s\n' "$(trust_in_force "${3-}")"
        } | record "$tree" "$2" "${parents[@]}"
    )"
}

approve() { # vN (record.md, "The tag")
    local key oid id
    key=$(git config user.signingkey)
    oid=$(git rev-parse "refs/releases/$1")
    id=$(ssh-keygen -y -f "$key" | cut -d ' ' -f 2 | base64 -d | sha256sum | cut -c 1-64)
    {
        printf 'object %s\ntype commit\ntag approvals/%s/%s\n' "$oid" "$oid" "$id"
        printf 'tagger %s\n\nApprove %s\n\n' "$(git var GIT_COMMITTER_IDENT)" "$1"
        printf 'Gitrel-Record: approval\nGitrel-Format: 1\nApp: %s\n' "$(app)"
        printf 'Trust: %s\nRecord: release production %s %s\n' "$(trust_in_force)" "$1" "$(id_of "$oid")"
    } >"$scratch/tag"
    ssh-keygen -q -Y sign -n git -f "$key" "$scratch/tag"
    create "refs/approvals/$oid/$id" "$(cat "$scratch/tag" "$scratch/tag.sig" | git mktag)"
}

# ---- the other way: what anybody can check without gitrel

trailer() { # OID KEY: the value in the last paragraph of the message
    local last=$scratch/last-$1
    [ -e "$last" ] || git cat-file commit "$1" | awk -v RS= -v ORS='\n' '{ last = $0 } END { print last }' >"$last"
    sed -n "s/^$2: //p" "$last"
}

armor() { git cat-file commit "$1" | sed -n "/^$2 /,/^[^ ]*\$/{/^\$/d; s/^$2 //; s/^ //; p}"; } # OID HEADER

rewrapped() { # as ssh-keygen writes it: 70 columns
    echo '-----BEGIN SSH SIGNATURE-----'
    sed '/^-----/d' | base64 -d | base64 -w 70
    echo '-----END SSH SIGNATURE-----'
}

check() { # OID KIND TRUST: one record by itself; the same is not checked twice
    local sha256 oid=$1 trust=$3 header=gpgsig headers
    [ ! -e "$scratch/good-$1-$2-$3" ] || return 0
    if [ "${#oid}" = 64 ]; then header=gpgsig-sha256; fi
    headers=$(git cat-file commit "$oid" | sed '/^$/,$d; /^ /d; s/ .*//' | tr '\n' ' ')
    [[ $headers =~ ^"tree "("parent ")*"author committer $header "$ ]] || die "$oid: headers $headers"
    [ "$(armor "$oid" "$header")" = "$(armor "$oid" "$header" | rewrapped)" ] ||
        die "$oid: another spelling of its armor"
    git show "refs/trust/$trust:allowed_signers" >"$scratch/allowed_signers"
    git -c gpg.ssh.allowedSignersFile="$scratch/allowed_signers" verify-commit "$oid" 2>"$scratch/said" ||
        die "$oid: $(tail -n 1 "$scratch/said")"
    [ "$(trailer "$oid" Gitrel-Record)" = "$2" ] || die "$oid is no $2 record"
    [ "$(trailer "$oid" App)" = "$(app)" ] || die "$oid is of another app"
    sha256=$(sha256_tree "$(git rev-parse "$oid^{tree}")")
    [ "$(trailer "$oid" Tree-SHA256)" = "$sha256" ] || die "$oid: its files are not the signed ones"
    touch "$scratch/good-$1-$2-$3"
}

check_cited() { # OID KEY KIND TRUST: a record that another one cites, and that record's parent
    local cited
    cited=$(trailer "$1" "$2")
    [ -n "$cited" ] || return 0
    [ "$2" = Build ] || cited=${cited#* }
    [ "$cited" = "$(id_of "${cited% *}")" ] || die "$1: $2 is another record"
    git cat-file commit "$1" | grep -qx "parent ${cited% *}" || die "$1: $2 is no parent"
    [ "$(git ls-tree "$1" "$3" | cut -f 1)" = "$(inner_tree "${cited% *}" "$3")" ] || die "$1: another $3/"
    check "${cited% *}" "$3" "$4"
}

inner_tree() { # RECORD KIND: the line of ls-tree that a release has for it
    if [ "$2" = build ]; then
        git ls-tree "$1" build | cut -f 1
    elif [ -n "$(git ls-tree "$1")" ]; then
        printf '040000 tree %s\n' "$(git rev-parse "$1^{tree}")"
    fi
}

check_ledger() { # PREFIX KIND
    local n last trust oid
    last=$(newest "$1")
    for ((n = 1; n <= last; n++)); do
        oid=$(git rev-parse "$1$n")
        [ "$(trailer "$oid" Entry)" = "v$n" ] || die "$1$n has another number"
        [ "$(previous "$1" "$n")" = "$(git cat-file commit "$oid" | grep '^Previous: ' || true)" ] ||
            die "$1$n does not follow the entry before it"
        if [ "$2" = trust ]; then
            check "$oid" trust "v$((n > 1 ? n - 1 : 1))" # who had the say before
            check "$oid" trust "v$n"
            continue
        fi
        [ "$(trailer "$oid" Deploy)" = production ] || die "$1$n is of another deploy"
        trust=$(trailer "$oid" Trust)
        [ "${trust#* }" = "$(id_of "refs/trust/${trust%% *}")" ] || die "$1$n cites another trust"
        check "$oid" "$2" "${trust%% *}"
        if [ "$2" = release ]; then
            check_cited "$oid" Build build "${trust%% *}"
            check_cited "$oid" Config config "${trust%% *}"
        fi
        echo "$1$n: good"
    done
    [ "$(git for-each-ref "${1%v}v*" | wc -l)" = "$last" ] || die "an entry of $1 is missing"
}

verify() { # PIN
    [ "$(sha256_of commit "$(git rev-parse refs/trust/v1)")" = "$1" ] || die "not the trust that is pinned"
    check_ledger refs/trust/v trust
    check_ledger refs/config/v config
    check_ledger refs/releases/v release
}

case ${1-} in
    trust) make_trust "${@:2}" ;;
    config) make_config "$2" ;;
    build) make_build "$2" "$3" ;;
    release) make_release "$2" "$3" "${4-}" ;;
    approve) approve "$2" ;;
    verify) verify "$2" ;;
    *)
        sed -n '4,10s/^# *//p' "$0" >&2
        exit 2
        ;;
esac
