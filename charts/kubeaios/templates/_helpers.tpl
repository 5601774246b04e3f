{{/* Labels of everything. Call with (list . "component"). */}}
{{- define "kubeaios.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: kubeaios
{{ include "kubeaios.selector" . }}
{{- end }}

{{/* What a workload selects its pods by; it can't change once installed. */}}
{{- define "kubeaios.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: kubeaios
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* A container without any privilege. */}}
{{- define "kubeaios.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where each program answers for its health and metrics. */}}
{{- define "kubeaios.gateway.port" }}9490{{ end }}
{{- define "kubeaios.node.port" }}9487{{ end }}
{{- define "kubeaios.operator.port" }}9486{{ end }}
