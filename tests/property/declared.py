"""What people may declare, and what is wrong with it now and then, for Hypothesis."""

from hypothesis import strategies as st

from aios_api.agent import AgentSpec
from aios_api.binding import ToolBindingSpec
from aios_api.quota import GPUQuotaSpec
from aios_kube import resources
from property.schemas import specs

TEMPLATE = {"spec": {"containers": [{"name": "main", "image": "localhost/example:1"}]}}
MEMORY = st.sampled_from(["1Gi", "4Gi", "16Gi", "40Gi", "80Gi", "200Gi"])
SIZES = {"content": st.sampled_from(["1Mi", "64Mi"]), "memory": MEMORY, "template": st.just(TEMPLATE)}
ALWAYS = {"models": st.just(["H100"]), "restartPolicy": st.just("Always"), "activeDeadlineSeconds": st.just(86_400)}
MODES = {"operatingMode": st.sampled_from(["Running", "Running", "Running", "Stopped"])}
AGENTS = specs(AgentSpec, SIZES | ALWAYS | MODES, optional=0.6)
"""Most of what an Agent may have, so that they want the same GPU."""
QUOTAS = specs(GPUQuotaSpec, {"memory": st.fixed_dictionaries({"nominal": MEMORY}), "agents": st.integers(0, 4)}, optional=0.6)
RULE = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "c"]), "host": st.sampled_from(["a.example.com", "b.example.com", "*.example.org"])}
)
BINDINGS = specs(
    ToolBindingSpec,
    {
        "egress": st.lists(RULE, max_size=3, unique_by=lambda each: each["name"]),
        "agentSelector": st.fixed_dictionaries({"matchLabels": st.fixed_dictionaries({"app": st.sampled_from(["coder", "writer"])})}),
    },
    optional=0.8,
)
BROKEN = {
    resources.AGENTS: [{"gpu": {"memory": "lots"}}, {"priority": "high"}, {"expose": [{"name": "x", "port": 99_999_999}]}],
    resources.GPU_QUOTAS: [{"memory": {"nominal": "-1Gi"}}, {"agents": "all"}],
    resources.TOOL_BINDINGS: [{"egress": "everything"}, {"mode": "Perhaps"}],
}
"""What the API server would refuse now, and may have stored before it did."""
