{{- /*
The pod template of a Ray node. With `name` of the container, `node` (resources, nodeSelector, tolerations), `storage` whether it opens the
database and reads data, `volumes` whether it has any, `token` whether it talks to Kubernetes. KubeRay adds the probes.
*/ -}}
{{- define "autoslim.rayPod" -}}
spec:
  automountServiceAccountToken: {{ .token }}
  {{- include "autoslim.podSecurity" (dict "root" .root "user" 10001) | nindent 2 }}
  # Trials have 30 s for their checkpoints, and a driver gives its search 30 s; Ray ends what it has started after that.
  terminationGracePeriodSeconds: 90
  {{- with include "autoslim.placement" .node | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: {{ .name }}
      image: {{ include "autoslim.image" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      {{- include "autoslim.containerSecurity" . | nindent 6 }}
      {{- if eq .name "ray-head" }}
      ports:
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
      {{- end }}
      {{- if .volumes }}
      env:
        - {name: HF_HOME, value: /runs/.huggingface}
        - {name: AUTOSLIM_CACHE, value: /runs/.cache}
        {{- if .storage }}
        # A driver's secret. It is not submitted with it, since everything submitted can be read in the dashboard.
        {{- include "autoslim.storageVariable" .root | nindent 8 }}
        {{- end }}
      {{- end }}
      resources:
        {{- toYaml .node.resources | nindent 8 }}
      {{- if .volumes }}
      volumeMounts:
        - {name: runs, mountPath: /runs}
        {{- if .storage }}
        - {name: data, mountPath: /data, readOnly: true}
        {{- end }}
      {{- end }}
  {{- if .volumes }}
  volumes:
    - name: runs
      persistentVolumeClaim: {claimName: {{ include "autoslim.runsClaim" .root }}}
    {{- if .storage }}
    - name: data
      persistentVolumeClaim: {claimName: {{ include "autoslim.dataClaim" .root }}, readOnly: true}
    {{- end }}
  {{- end }}
{{- end }}
