# shellcheck shell=bash
# What the demo shows, sourced by demo.sh. Everything happens in the namespace hsm-demo; files for openssl go to
# target/demo.
cd "$root"
samples=config/samples
work=$root/target/demo
toolbox=${TOOLBOX_IMAGE:-localhost/hsm-operator-toolbox:dev}

apply_keys() {
  rm -rf "$work" && mkdir -p "$work"
  kubectl apply --server-side -f - >/dev/null <<EOF
apiVersion: v1
kind: Namespace
metadata:
  name: hsm-demo
  labels: {pod-security.kubernetes.io/enforce: restricted}
EOF
  show kubectl apply -n hsm-demo -f "$samples/rbac.yaml" -f "$samples/key-rsa.yaml" -f "$samples/key-ec.yaml"
  show kubectl wait -n hsm-demo hsmkey --all --for=condition=Ready --timeout=120s
}

# secret KEY FILE: one entry of the Secret of the RSA key.
secret() {
  kubectl get secret payments-rsa-public -n hsm-demo -o json | jq -er --arg key "$1" '.data[$key]' | base64 -d >"$work/$2"
}

# The published procedure: the chain up to a pinned root, the signature, and the key in the statement.
check_attestation() {
  local pinned
  secret publicKey.pem key.pem
  secret attestation.xml key.xml
  secret attestation.sig key.sig
  secret attestation-chain.pem chain.crt
  # The root is the last certificate; what makes it the root is the fingerprint in the partition's status.
  awk '/BEGIN CERTIFICATE/ { text = "" } { text = text $0 "\n" } END { printf "%s", text }' "$work/chain.crt" >"$work/root.crt"
  pinned=$(kubectl get hsmpartition demo -o jsonpath='{.status.attestation.rootFingerprint}')
  [[ $(openssl x509 -in "$work/root.crt" -noout -fingerprint -sha256) == *"=$pinned" ]] ||
    { say '    the root is not the one in the status of the partition'; return 1; }
  (
    cd "$work"
    openssl x509 -in chain.crt -noout -pubkey >attestation-key.pem
    show openssl verify -CAfile root.crt -untrusted chain.crt chain.crt
    show openssl dgst -sha256 -verify attestation-key.pem -signature key.sig key.xml
    sed -n 's|.*<public_key>\(.*\)</public_key>.*|\1|p' key.xml | base64 -d >attested.der
    openssl pkey -pubin -in key.pem -outform DER | cmp - attested.der
    grep -q '<never_extractable>true<' key.xml
  )
  say '    the attested key is the one in the Secret; the token says that it was never extractable'
}

check_request() {
  # A request never changes, so an earlier one goes first.
  kubectl delete -n hsm-demo -f "$samples/signing-request.yaml" --ignore-not-found >/dev/null
  show kubectl create -n hsm-demo -f "$samples/signing-request.yaml"
  show kubectl wait -n hsm-demo -f "$samples/signing-request.yaml" --for=condition=Ready --timeout=60s
  kubectl get -n hsm-demo -f "$samples/signing-request.yaml" -o jsonpath='{.status.signature}' | base64 -d >"$work/request.sig"
  printf Payload >"$work/payload"
  (cd "$work" && show openssl dgst -sha256 -verify key.pem -signature request.sig payload)
}

check_job() {
  kubectl delete -n hsm-demo -f "$samples/job.yaml" --ignore-not-found --wait >/dev/null
  sed "s|localhost/hsm-operator-toolbox:dev|$toolbox|" "$samples/job.yaml" >"$work/job.yaml"
  show kubectl apply -n hsm-demo -f "$work/job.yaml"
  kubectl wait -n hsm-demo job/payments-sign --for=condition=Complete --timeout=90s >/dev/null || {
    kubectl describe -n hsm-demo job/payments-sign | tail -n 8
    kubectl logs -n hsm-demo job/payments-sign --all-containers --tail 10
    return 1
  }
  show kubectl logs -n hsm-demo job/payments-sign -c sign
  kubectl logs -n hsm-demo job/payments-sign -c sign | jq -er .signature | base64 -d >"$work/job.sig"
  (cd "$work" && show openssl dgst -sha224 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest \
    -verify key.pem -signature job.sig payload)
}
