#!/bin/sh
# Stops a deployment while a variable that prefect.yaml reads is missing. Prefect itself replaces
# an unset {{ $NAME }} by nothing, without a word.
#
# usage: sh deployments/require.sh NAME...
for name in "$@"; do
    eval "value=\${$name:-}"
    case "$name=$value" in
    MGD_STORE=/* | MGD_STORE=*://*) ;;
    MGD_STORE=*)
        # A relative folder is below the working folder of a run, which is deleted at its end.
        echo "MGD_STORE is '$value', and runs would lose what they write there." \
            "Set it to a URL or an absolute path, e.g. MGD_STORE=s3://bucket/folder." >&2
        exit 1
        ;;
    *=)
        echo "$name is empty, and prefect.yaml needs it. Set it, e.g. from deployments/.env." >&2
        exit 1
        ;;
    esac
done
