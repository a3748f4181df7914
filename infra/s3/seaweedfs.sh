#!/bin/sh
# Start the S3 server of infra/compose.yaml. Its keys come from the environment and are written to memory only: one that
# makes buckets, one that reads the source, one that reads and writes the store.
set -eu
umask 077
cat >/run/glr/identities.json <<EOF
{"identities": [
  {"name": "admin", "credentials": [{"accessKey": "$S3_ADMIN_KEY", "secretKey": "$S3_ADMIN_SECRET"}],
   "actions": ["Admin", "Read", "List", "Tagging", "Write"]},
  {"name": "source", "credentials": [{"accessKey": "$S3_SOURCE_KEY", "secretKey": "$S3_SOURCE_SECRET"}],
   "actions": ["Read:glr-source", "List:glr-source"]},
  {"name": "store", "credentials": [{"accessKey": "$S3_STORE_KEY", "secretKey": "$S3_STORE_SECRET"}],
   "actions": ["Read:glr-store", "List:glr-store", "Write:glr-store"]}
]}
EOF
exec weed server -dir=/data -ip=s3 -s3 -s3.port=8333 -s3.config=/run/glr/identities.json \
    -volume.max=0 -master.volumeSizeLimitMB=1024
