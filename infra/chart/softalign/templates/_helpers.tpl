{{- define "softalign.labels" -}}
app.kubernetes.io/name: softalign
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "softalign.image" -}}
{{- $image := .root.Values.image -}}
{{- $digest := get $image.digests .image -}}
{{ $image.registry }}{{ .image }}{{ if $digest }}@{{ $digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* What every pod has: no token of the cluster, no root, no writable root file system. */ -}}
{{- define "softalign.pod" -}}
serviceAccountName: {{ .root.Release.Name }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "softalign.container" -}}
image: {{ include "softalign.image" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "softalign.secret" -}}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .root.Values.existingSecret | quote }}, key: {{ .key }}}}
{{- end }}

{{- define "softalign.s3" -}}
{{- include "softalign.secret" (dict "root" .root "name" "AWS_ACCESS_KEY_ID" "key" "aws-access-key-id") }}
{{ include "softalign.secret" (dict "root" .root "name" "AWS_SECRET_ACCESS_KEY" "key" "aws-secret-access-key") }}
- {name: AWS_DEFAULT_REGION, value: {{ .root.Values.s3.region | quote }}}
{{- with .root.Values.s3.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
- {name: MLFLOW_S3_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "softalign.client" -}}
{{- $name := .root.Release.Name -}}
{{ include "softalign.s3" . }}
- {name: PREFECT_API_URL, value: "http://{{ $name }}-prefect:4200/api"}
{{ include "softalign.secret" (dict "root" .root "name" "PREFECT_API_AUTH_STRING" "key" "prefect-auth") }}
- {name: MLFLOW_TRACKING_URI, value: "http://{{ $name }}-mlflow:5000"}
{{ include "softalign.secret" (dict "root" .root "name" "MLFLOW_TRACKING_USERNAME" "key" "mlflow-username") }}
{{ include "softalign.secret" (dict "root" .root "name" "MLFLOW_TRACKING_PASSWORD" "key" "mlflow-password") }}
- {name: SOFTALIGN_STORE, value: {{ .root.Values.s3.store | quote }}}
- {name: DO_NOT_TRACK, value: "1"}
- {name: MLFLOW_DISABLE_TELEMETRY, value: "true"}
{{- if .root.Values.huggingface.enabled }}
{{ include "softalign.secret" (dict "root" .root "name" "HF_TOKEN" "key" "hf-token") }}
{{- end }}
{{- end }}
