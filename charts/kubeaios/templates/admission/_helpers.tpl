{{/* Who may write what. The names are those of our own service accounts; everybody else is told apart by rights, or not at all. */}}
{{- define "kubeaios.user.operator" -}}system:serviceaccount:{{ .Release.Namespace }}:aios-operator{{- end }}
{{- define "kubeaios.user.node" -}}system:serviceaccount:{{ .Release.Namespace }}:aios-node{{- end }}

{{/* Metadata of a policy and of its binding. Call with (list . "name"). */}}
{{- define "kubeaios.policy.metadata" -}}
name: {{ index . 1 }}
labels:
  {{- include "kubeaios.labels" (list (index . 0) "admission") | nindent 2 }}
{{- end }}

{{/* Puts a policy in force. Call with (list . "name"). */}}
{{- define "kubeaios.policy.binding" -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  {{- include "kubeaios.policy.metadata" . | nindent 2 }}
spec:
  policyName: {{ index . 1 }}
  validationActions: [Deny]
{{- end }}

{{/* A validation, where variables.guarded: owners may be taken away or no longer block the deletion, as the garbage collector does; none is added. */}}
{{- define "kubeaios.policy.owners" -}}
- expression: >-
    oldObject == null || !variables.guarded || object.metadata.?ownerReferences.orValue([]).all(owner,
    oldObject.metadata.?ownerReferences.orValue([]).exists(old,
    old.uid == owner.uid && old.kind == owner.kind && old.name == owner.name && old.apiVersion == owner.apiVersion &&
    old.?controller.orValue(false) == owner.?controller.orValue(false)))
  message: nobody but the operator of KubeAIOS adds an owner to what it has made
  reason: Forbidden
{{- end }}

{{/* Whether these seLinuxOptions let a container out of what SELinux confines containers to. Call with the path to them. */}}
{{- define "kubeaios.policy.selinux" -}}
!({{ . }}.?type.orValue("") in ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"]) ||
{{ . }}.?user.orValue("") != "" || {{ . }}.?role.orValue("") != ""
{{- end }}

{{/* Whether container c has more than an agent's container may have; capabilities that it does not drop count, NET_RAW is one of them. */}}
{{- define "kubeaios.policy.privileged" -}}
c.?securityContext.?privileged.orValue(false) ||
c.?securityContext.?allowPrivilegeEscalation.orValue(true) ||
c.?securityContext.?capabilities.?add.orValue([]).size() > 0 ||
!("ALL" in c.?securityContext.?capabilities.?drop.orValue([])) ||
c.?securityContext.?procMount.orValue("Default") != "Default" ||
c.?securityContext.?runAsUser.orValue(1) in [0, {{ int64 .Values.gateway.runAsUser }}] ||
!c.?securityContext.?runAsNonRoot.orValue(true) ||
c.?securityContext.?seccompProfile.?type.orValue("") == "Unconfined" ||
{{ include "kubeaios.policy.selinux" "c.?securityContext.?seLinuxOptions" }} ||
c.?securityContext.?appArmorProfile.?type.orValue("") == "Unconfined"
{{- end }}
