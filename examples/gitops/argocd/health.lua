-- Health of Agent, ToolBinding and GPUQuota for Argo CD. One script for all: they speak by the same conditions.
-- An object whose status speaks of an older generation is on its way; so is one that nobody has spoken of yet.
local function condition(wanted)
  if obj.status == nil or obj.status.conditions == nil then
    return nil
  end
  for _, each in ipairs(obj.status.conditions) do
    if each.type == wanted then
      return each
    end
  end
  return nil
end

local function says(wanted, status)
  local found = condition(wanted)
  return found ~= nil and found.status == status
end

local function health(status, wanted)
  local found = condition(wanted)
  return { status = status, message = found ~= nil and found.message or "" }
end

if obj.status == nil or obj.status.conditions == nil then
  return { status = "Progressing", message = "the operator has not spoken of it yet" }
end
if obj.status.observedGeneration ~= nil and obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen this generation yet" }
end
if says("Stalled", "True") then
  return health("Degraded", "Stalled")
end
if says("Accepted", "False") then
  return health("Degraded", "Accepted")
end
if obj.kind == "GPUQuota" then
  if says("InForce", "False") then
    return health("Degraded", "InForce")
  end
  return health("Healthy", "InForce")
end
if says("DeadlineExceeded", "True") then
  return health("Suspended", "DeadlineExceeded")
end
if obj.spec.operatingMode == "Stopped" then
  return health(says("Reconciling", "True") and "Progressing" or "Suspended", "Ready")
end
if says("Completed", "True") then
  return health(condition("Completed").reason == "Failed" and "Degraded" or "Healthy", "Completed")
end
if says("Ready", "True") then
  return health("Healthy", "Ready")
end
return health("Progressing", "Ready")
