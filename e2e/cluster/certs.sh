# shellcheck shell=bash
# Sourced: the cluster's certificates and kubeconfigs, made with openssl.

make_ca() {
  openssl req -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 \
    -config "$pki/openssl.cnf" -extensions authority -subj "/CN=$2" \
    -keyout "$pki/$1.key" -out "$pki/$1.crt" 2>/dev/null
}

# make_cert NAME CA SUBJECT [SUBJECT-ALT-NAMES]
make_cert() {
  openssl req -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 \
    -config "$pki/openssl.cnf" -extensions leaf -subj "$3" ${4:+-addext "subjectAltName=$4"} \
    -CA "$pki/$2.crt" -CAkey "$pki/$2.key" -keyout "$pki/$1.key" -out "$pki/$1.crt" 2>/dev/null
}

# make_kubeconfig NAME SUBJECT: a client certificate and the file that uses it.
make_kubeconfig() {
  make_cert "$1" ca "$2"
  cat >"$state/$1.kubeconfig" <<EOF
apiVersion: v1
kind: Config
current-context: hsm-operator-$cluster_name
clusters:
- name: hsm-operator-$cluster_name
  cluster:
    server: https://$node_ip:6443
    certificate-authority-data: $(base64 -w0 "$pki/ca.crt")
users:
- name: $1
  user:
    client-certificate-data: $(base64 -w0 "$pki/$1.crt")
    client-key-data: $(base64 -w0 "$pki/$1.key")
contexts:
- name: hsm-operator-$cluster_name
  context: {cluster: hsm-operator-$cluster_name, user: $1}
EOF
}

make_pki() {
  pki=$state/pki
  mkdir -p "$pki"
  cat >"$pki/openssl.cnf" <<'EOF'
[req]
distinguished_name = none
prompt = no
[none]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign, digitalSignature
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
authorityKeyIdentifier = keyid
EOF
  make_ca ca kubernetes-ca
  # A CA of its own: who holds any client certificate of the cluster could otherwise
  # claim to be the aggregator and impersonate everybody.
  make_ca front-proxy-ca front-proxy-ca
  make_cert apiserver ca /CN=kube-apiserver \
    "IP:$node_ip,IP:$kubernetes_ip,IP:127.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  make_cert apiserver-kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client
  make_cert front-proxy-client front-proxy-ca /CN=front-proxy-client
  make_cert kubelet-server ca "/O=system:nodes/CN=system:node:$node_name" "IP:$node_ip,DNS:$node_name"
  openssl genrsa -out "$pki/sa.key" 2048 2>/dev/null
  openssl pkey -in "$pki/sa.key" -pubout -out "$pki/sa.pub"
  make_kubeconfig admin /O=system:masters/CN=admin
  make_kubeconfig controller-manager /CN=system:kube-controller-manager
  make_kubeconfig scheduler /CN=system:kube-scheduler
  make_kubeconfig kubelet "/O=system:nodes/CN=system:node:$node_name"
  make_kubeconfig kube-proxy /CN=system:kube-proxy
  make_kubeconfig coredns /CN=hsm-e2e:coredns
  # Keys of daemons that all run as root.
  chmod -R go= "$pki" "$state"/*.kubeconfig
}
