{{- define "fastgw.name" -}}
{{- if contains "fastgw" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-fastgw" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels that never change: of selectors. Takes (list context component). */}}
{{- define "fastgw.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: fastgw
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "fastgw.labels" -}}
{{- $root := index . 0 -}}
{{ include "fastgw.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- define "fastgw.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "fastgw.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "fastgw.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* What every pod has: no token of the API server, no root. Takes (list context account). */}}
{{- define "fastgw.pod" -}}
{{- $root := index . 0 -}}
serviceAccountName: {{ index . 1 }}
automountServiceAccountToken: false
# Variables of Services could be taken for settings.
enableServiceLinks: false
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "fastgw.container" -}}
image: {{ include "fastgw.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{/* Variables of a map of properties. */}}
{{- define "fastgw.settings" -}}
{{- range $name, $value := . }}
- name: FASTGW_{{ upper $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{- define "fastgw.database" -}}
- name: FASTGW_ROLE
  value: control_plane
- name: FASTGW_DATABASE
  value: postgres
- name: FASTGW_PG_HOST
  value: {{ required "postgres.host: the database that control planes share" .Values.postgres.host | quote }}
- name: FASTGW_PG_PORT
  value: {{ .Values.postgres.port | quote }}
- name: FASTGW_PG_USER
  value: {{ .Values.postgres.user | quote }}
- name: FASTGW_PG_DATABASE
  value: {{ .Values.postgres.database | quote }}
- name: FASTGW_PG_SSL
  value: {{ ternary "on" "off" .Values.postgres.ssl | quote }}
- name: FASTGW_PG_SSL_VERIFY
  value: {{ ternary "on" "off" .Values.postgres.sslVerify | quote }}
- name: FASTGW_PG_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .Values.postgres.passwordSecret.name }}
      key: {{ .Values.postgres.passwordSecret.key }}
{{- end }}

{{- define "fastgw.clusterPair" -}}
- name: FASTGW_CLUSTER_CERT
  value: /etc/fastgw/cluster/tls.crt
- name: FASTGW_CLUSTER_CERT_KEY
  value: /etc/fastgw/cluster/tls.key
- name: FASTGW_STATUS_LISTEN
  value: "0.0.0.0:8100"
{{- end }}

{{- define "fastgw.volumes" -}}
- name: prefix
  emptyDir: {}
- name: tmp
  emptyDir: { medium: Memory, sizeLimit: 16Mi }
- name: cluster
  secret:
    secretName: {{ .Values.cluster.secretName }}
    # Its group is the pod's; nobody else may read the key.
    defaultMode: 0440
{{- end }}

{{- define "fastgw.mounts" -}}
- name: prefix
  mountPath: /var/lib/fastgw
- name: tmp
  mountPath: /tmp
- name: cluster
  mountPath: /etc/fastgw/cluster
  readOnly: true
{{- end }}

{{- define "fastgw.probes" -}}
startupProbe:
  httpGet: { path: /status, port: status }
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: { path: /status/ready, port: status }
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  httpGet: { path: /status, port: status }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{- define "fastgw.placement" -}}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with index $ $name }}
{{ $name }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
