{{/* Start of all names: fixed, so that documentation, certificates and policies agree whatever the release's name. */}}
{{- define "hsm-operator.name" -}}
{{ .Values.fullnameOverride | default "hsm-operator" }}
{{- end -}}

{{- define "hsm-operator.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Where sidecars find the gateways; also the name in the gateways' certificate. */}}
{{- define "hsm-operator.gateway-url" -}}
https://{{ include "hsm-operator.name" . }}-gateway.{{ .Release.Namespace }}.svc:8443
{{- end -}}

{{/* Labels of everything; call with (list . "component"). */}}
{{- define "hsm-operator.labels" -}}
{{- $root := index . 0 -}}
{{ include "hsm-operator.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: hsm-operator
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end -}}

{{/* Labels that select pods; never changed, because a Deployment's selector cannot be. */}}
{{- define "hsm-operator.selector" -}}
app.kubernetes.io/name: {{ include "hsm-operator.name" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* What controller and gateway pods have in common; call with (list . "component" "service-account"). */}}
{{- define "hsm-operator.pod" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $own := index $root.Values $component -}}
{{- $name := include "hsm-operator.name" $root -}}
metadata:
  labels:
    {{- include "hsm-operator.labels" (list $root $component) | nindent 4 }}
  {{- with $own.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ $name }}-{{ $component }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  # The binary drains by itself on SIGTERM; this is more than it ever takes.
  terminationGracePeriodSeconds: 40
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: {{ $component }}
      image: {{ include "hsm-operator.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ $component }}]
      env:
        - name: POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: POD_NAMESPACE
          valueFrom:
            fieldRef:
              fieldPath: metadata.namespace
        - name: HSM_OPERATOR_LOG_LEVEL
          value: {{ $root.Values.logLevel }}
        # Names of what controller and gateway share.
        - name: HSM_OPERATOR_GATEWAY_SERVICE
          value: {{ $name }}-gateway
        - name: HSM_OPERATOR_GATEWAY_TLS_SECRET
          value: {{ $name }}-gateway-tls
        {{- if eq $component "controller" }}
        # The policies vouch for who asked; without them no SigningRequest is executed.
        - name: HSM_OPERATOR_ADMISSION_CHECKED
          value: {{ $root.Values.policies.enabled | quote }}
        {{- end }}
        - name: HSM_OPERATOR_AUDIENCE
          value: {{ $root.Values.gateway.audience | quote }}
        {{- if eq $component "controller" }}
        - name: HSM_OPERATOR_RESYNC_SECONDS
          value: {{ $root.Values.controller.resyncSeconds | quote }}
        {{- end }}
        {{- with $root.Values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- if eq $component "gateway" }}
        - name: https
          containerPort: 8443
          protocol: TCP
        {{- end }}
        - name: admin
          containerPort: 8080
          protocol: TCP
      # Generous: a restart cures no slow start.
      startupProbe:
        httpGet:
          path: /livez
          port: admin
        periodSeconds: 1
        failureThreshold: 60
      livenessProbe:
        httpGet:
          path: /livez
          port: admin
        periodSeconds: 10
        failureThreshold: 6
      # Quick, because a gateway that stops leaves the Service's addresses by it.
      readinessProbe:
        httpGet:
          path: /readyz
          port: admin
        periodSeconds: 2
        failureThreshold: 1
      resources:
        {{- toYaml $own.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        capabilities:
          drop: [ALL]
        readOnlyRootFilesystem: true
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        {{- with $root.Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    # PKCS#11 libraries like to write lock files and logs; a gateway puts aside up to eight files of 256 MiB.
    - name: tmp
      emptyDir:
        sizeLimit: 3Gi
    {{- with $root.Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  topologySpreadConstraints:
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "hsm-operator.selector" (list $root $component) | nindent 10 }}
    {{- end }}
  {{- with $own.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/*
A value as a CEL literal. CEL lists and maps hold one type only, so everything inside is made dynamic.
*/}}
{{- define "hsm-operator.cel" -}}
{{- if kindIs "map" . -}}
{
{{- $separator := "" -}}
{{- range $key, $value := . -}}
{{ $separator }}{{ toJson $key }}: dyn({{ include "hsm-operator.cel" $value }})
{{- $separator = ", " -}}
{{- end -}}
}
{{- else if kindIs "slice" . -}}
[
{{- range $index, $value := . -}}
{{ if $index }}, {{ end }}dyn({{ include "hsm-operator.cel" $value }})
{{- end -}}
]
{{- else if kindIs "string" . -}}
{{ toJson . }}
{{- else if kindIs "bool" . -}}
{{ . }}
{{- else -}}
{{ int64 . }}
{{- end -}}
{{- end -}}
