{{- define "vivace.name" -}}
{{- default "vivace-operator" .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "vivace.fullname" -}}
{{- default (include "vivace.name" .) .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "vivace.account" -}}
{{- default (include "vivace.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- /* Selects the operator's pods; never changes. NetworkPolicies of clusters name the first label. */ -}}
{{- define "vivace.selector" -}}
app.kubernetes.io/name: vivace-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "vivace.labels" -}}
{{ include "vivace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tracing
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* registry/repository:tag@digest of {image, tag, registry}. */ -}}
{{- define "vivace.image" -}}
{{- $registry := default .registry .image.registry -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ .image.repository }}
{{- $tag := default .tag .image.tag -}}
{{- if $tag }}:{{ $tag }}{{ end }}
{{- if .image.digest }}@{{ .image.digest }}{{ end }}
{{- end -}}

{{- /* What is needed in every namespace that is looked after. */ -}}
{{- define "vivace.rules" -}}
- apiGroups: [tracing.vivace.dev]
  resources: [tracingclusters]
  verbs: [get, list, watch, update, patch]
- apiGroups: [tracing.vivace.dev]
  resources: [tracingtenants]
  verbs: [get, list, watch, patch]
- apiGroups: [tracing.vivace.dev]
  resources: [tracingclusters/status, tracingclusters/finalizers, tracingtenants/status]
  verbs: [get, update, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# The Job that empties a bucket's prefix, where a cluster is deleted with everything.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, create, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies, ingresses]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes, grpcroutes]
  verbs: [get, list, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors, podmonitors, prometheusrules]
  verbs: [get, list, create, patch, delete]
- apiGroups: [grafana.integreatly.org]
  resources: [grafanadatasources, grafanadashboards]
  verbs: [get, list, create, patch, delete]
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, list, create, patch, delete]
{{- end -}}
