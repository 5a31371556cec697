{{- /* The names of all objects begin with it. KubeRay allows a cluster few characters, since it makes longer names of its own. */ -}}
{{- define "autoslim.name" -}}
{{- $long := printf "%s-%s" .Release.Name .Chart.Name -}}
{{- contains .Chart.Name .Release.Name | ternary .Release.Name $long | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "autoslim.image" -}}
{{ .Values.image.repository }}:{{ .Chart.AppVersion }}-ray{{ .Values.ray.version }}
{{- end }}

{{- /* With `component`. */ -}}
{{- define "autoslim.labels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* What every pod has; with `user`, the number of the image's user. */ -}}
{{- define "autoslim.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* On which nodes a pod runs, from the values of its part; nothing where they are empty. */ -}}
{{- define "autoslim.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "autoslim.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "autoslim.storageVariable" -}}
- name: AUTOSLIM_STORAGE
  valueFrom: {secretKeyRef: {name: {{ .Values.database.existingSecret }}, key: storage}}
{{- end }}

{{- define "autoslim.runsClaim" -}}
{{ .Values.storage.runs.existingClaim | default (printf "%s-runs" (include "autoslim.name" .)) }}
{{- end }}

{{- define "autoslim.dataClaim" -}}
{{ .Values.storage.data.existingClaim | default (printf "%s-data" (include "autoslim.name" .)) }}
{{- end }}

{{- define "autoslim.trackingUri" -}}
{{- if .Values.mlflow.builtIn -}}
http://{{ include "autoslim.name" . }}-mlflow:5000
{{- else -}}
{{ required "mlflow.address is empty while mlflow.builtIn is false; allowed: the URL of an MLflow server" .Values.mlflow.address }}
{{- end }}
{{- end }}

{{- /* Drivers, as peers of a NetworkPolicy: KubeRay sets these labels. */ -}}
{{- define "autoslim.driverPeer" -}}
- podSelector:
    matchLabels: {ray.io/cluster: {{ include "autoslim.name" . }}, ray.io/group: drivers}
{{- end }}

{{- define "autoslim.peer" -}}
- podSelector:
    matchLabels:
      {{- include "autoslim.labels" . | nindent 6 }}
{{- end }}
