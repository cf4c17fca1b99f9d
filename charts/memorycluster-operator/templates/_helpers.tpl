{{- define "operator.name" -}}
{{- $name := ternary .Release.Name (printf "%s-operator" .Release.Name) (contains "operator" .Release.Name) -}}
{{- .Values.fullnameOverride | default $name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "operator.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "operator.name" .) -}}
{{- end }}

{{/* By these the operator's pods are found, also by the network policies of the MemoryClusters. */}}
{{- define "operator.selector" -}}
app.kubernetes.io/name: memorycluster-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "operator.labels" -}}
{{ include "operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Image NAME of this version, from the registry of the values: include "operator.image" (list . NAME) */}}
{{- define "operator.image" -}}
{{- $top := index . 0 -}}
{{- printf "%s:%s" (list $top.Values.registry (index . 1) | compact | join "/") $top.Chart.AppVersion -}}
{{- end }}
