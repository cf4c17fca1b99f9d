"""Specs that are accepted, and specs that are refused: with the line that says so and with what a real API server
says (tests/operator/test_crd.py)."""
# ruff: noqa: E501 (a mistake and its lines side by side)

from typing import NamedTuple

HEAD = "apiVersion: memorycluster.io/v1alpha1\nkind: MemoryCluster\n"


def manifest_text(spec: str, name: str = "demo") -> str:
    """Return a manifest with ``spec``, a map of YAML whose braces may be left out."""
    return f"{HEAD}metadata: {{name: {name}}}\nspec: {spec if spec.startswith('{') else f'{{{spec}}}'}\n"


GOOD_SPECS = [
    "{}",
    "engine: {version: 9.1.2, image: 'registry.example.com:5000/engine@sha256:0a1b', imagePullPolicy: Never}",
    "engine: {parameters: {maxmemory: 1gb, hz: 50, activedefrag: 'yes', notify-keyspace-events: ''}}",
    "engine: {resources: {requests: {cpu: 500m, memory: 2Gi}, limits: {cpu: 2, memory: 2.5Gi}}}",
    "engine: {resources: {limits: {hugepages-2Mi: 512Mi}}, agentResources: {requests: {cpu: 100m}}}",
    "{shards: 166, replicasPerShard: 5}",
    "zones: [here]",
    "zones: [europe-west1-b, '1', Rack_7.east]",
    "log: {maxBytes: 67108864, storage: {size: 134217728}}",
    "log: {maxBytes: 1.5Gi, storage: {size: 3Gi, storageClassName: fast.example}}",
    "{shards: 3, log: {maxBytes: 1Pi}}",
    "log: {image: 'nats:2.15.1', imagePullPolicy: Always, resources: {requests: {memory: 1Gi}}}",
    "failover: {lease: 1m}",
    "failover: {lease: 1s500ms}",
    "networkPolicy: {from: []}",
    "networkPolicy: {from: [{podSelector: {}}, {namespaceSelector: {matchLabels: {team: a}}, podSelector: {}}]}",
    "networkPolicy: {from: [{podSelector: {matchExpressions: [{key: a, operator: In, values: [b, c]}]}}]}",
    "networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {ipBlock: {cidr: 'fd00::/8'}}]}",
    "{deletionPolicy: Delete, paused: true}",
    "scheduling: {tolerations: [{operator: Exists}, {key: a, value: b, effect: NoExecute, tolerationSeconds: 5}]}",
    "scheduling: {nodeSelector: {disk: ssd}, priorityClassName: high}",
    "imagePullSecrets: [{name: a.b-c}]",
    "snapshots: {maxLogReplay: 64Mi}",
    "snapshots: {schedule: '0 3 * * *', retention: {count: 3, age: 720h}, store: {s3: {bucket: b, prefix: p, "
    "endpoint: 'http://s3.example:9000'}, credentials: {secretName: backup-keys}}}",
    "snapshots: {store: {azure: {account: a, container: c}}, serviceAccountAnnotations: {azure/client-id: x}}",
    "{restoreFrom: {snapshot: orders-1}, snapshots: {store: {s3: {bucket: b}}}}",
    "{restoreFrom: {cluster: orders, time: '2026-11-01T12:34:56Z', store: {gcs: {bucket: c}}}, "
    "snapshots: {store: {s3: {bucket: b}}}}",
    "snapshots: {store: {gcs: {bucket: b}}, resources: {requests: {memory: 2Gi}}}",
    "snapshots: {schedule: '0 3 * * *', store: {log: {}}}",
    "{snapshots: {store: {log: {maxBytes: 1Gi}}}, log: {maxBytes: 1Gi, storage: {size: 3Gi}}}",
    "snapshots: {store: {s3: {bucket: b}, log: {maxBytes: 64Mi}}}",
    "restoreFrom: {snapshot: orders-1, cluster: orders, store: {log: {}}}",
    "snapshots: {store: {gcs: {bucket: b}}, beforeDelete: true, beforeDeleteTimeout: 168h}",
]

SPEC_FIELDS = (
    "engine, shards, replicasPerShard, zones, log, snapshots, restoreFrom, failover, networkPolicy, deletionPolicy, paused, "
    "scheduling, imagePullSecrets"
)
ENGINE_FIELDS = "version, image, imagePullPolicy, ioThreads, parameters, resources, agentResources"


class Bad(NamedTuple):
    spec: str
    line: str
    """What parse_manifest says, after "spec"."""
    refusal: str | None
    """What the API server says among other things, after "spec"; None: it understands what was meant."""


BAD_SPECS = [
    Bad(
        "{restoreFrom: {cluster: orders}, snapshots: {store: {s3: {bucket: b}}}}",
        ".restoreFrom: name either a snapshot or a time",
        ".restoreFrom: name either a snapshot or a time",
    ),
    Bad(
        "{restoreFrom: {time: '2026-11-01T12:34:56Z'}, snapshots: {store: {s3: {bucket: b}}}}",
        ".restoreFrom: name the cluster as well as the time",
        ".restoreFrom: name the cluster as well as the time",
    ),
    Bad(
        "snapshots: {store: {s3: {bucket: a}, gcs: {bucket: b}}}",
        ".snapshots.store: name one store, not s3 and gcs",
        ".snapshots.store: name one store",
    ),
    Bad(
        "snapshots: {schedule: often, store: {s3: {bucket: a}}}",
        ".snapshots.schedule: 'often' is not a schedule of five fields, like '0 3 * * *': Wrong number of fields",
        ".snapshots.schedule: not a schedule of five fields",
    ),
    Bad(
        "snapshots: {maxLogReplay: 1Ki}",
        ".snapshots.maxLogReplay: '1Ki' is out of range; use at least 1Mi",
        ".snapshots.maxLogReplay: out of range",
    ),
    Bad(
        "snapshots: {retention: {count: 0}}",
        ".snapshots.retention.count: 0 is out of range; use at least 1",
        ".snapshots.retention.count: should be greater than or equal to 1",
    ),
    Bad(
        "snapshots: {store: {s3: {}}}",
        ".snapshots.store.s3.bucket: missing; add it",
        ".snapshots.store.s3.bucket: Required value",
    ),
    Bad("shard: 1", f".shard: unknown field; remove it (known here: {SPEC_FIELDS})", ".shard: unknown"),
    Bad("tls: {}", f".tls: unknown field; remove it (known here: {SPEC_FIELDS})", ".tls: unknown"),
    Bad(
        "replicas_per_shard: 1",
        f".replicas_per_shard: unknown field; remove it (known here: {SPEC_FIELDS})",
        ".replicas_per_shard: unknown",
    ),
    Bad(
        "engine: {threads: 1}",
        f".engine.threads: unknown field; remove it (known here: {ENGINE_FIELDS})",
        ".engine.threads: unknown",
    ),
    Bad("shards: '1'", ".shards: expected an integer, found a string", ".shards: must be of type integer"),
    Bad("shards: true", ".shards: expected an integer, found a boolean", ".shards: must be of type int64"),
    Bad("shards: 1.5", ".shards: expected an integer, found a number", ".shards: must be of type int64"),
    Bad("shards:", ".shards: expected an integer, found nothing", None),
    Bad(
        "shards: 0",
        ".shards: 0 is out of range; use at least 1",
        ".shards: should be greater than or equal to 1",
    ),
    Bad(
        "shards: 501",
        ".shards: 501 is out of range; use at most 500",
        ".shards: should be less than or equal to 500",
    ),
    Bad(
        "replicasPerShard: -1",
        ".replicasPerShard: -1 is out of range; use at least 0",
        ".replicasPerShard: should be greater than or equal to 0",
    ),
    Bad(
        "replicasPerShard: 6",
        ".replicasPerShard: 6 is out of range; use at most 5",
        ".replicasPerShard: should be less than or equal to 5",
    ),
    Bad(
        "{shards: 500, replicasPerShard: 5}",
        ": 500 shards with 5 replicas are 3000 nodes; at most 1000: lower shards or replicasPerShard",
        ": more than 1000 nodes: lower shards or replicasPerShard",
    ),
    Bad("zones: zone-a", ".zones: expected a list, found a string", ".zones: must be of type array"),
    Bad(
        "zones: []",
        ".zones: 0 zones; name 1 or 3 (two zones can't lose one and keep a majority)",
        ".zones: name 1 or 3 (two zones can't lose one and keep a majority)",
    ),
    Bad(
        "zones: [a, b]",
        ".zones: 2 zones; name 1 or 3 (two zones can't lose one and keep a majority)",
        ".zones: name 1 or 3 (two zones can't lose one and keep a majority)",
    ),
    Bad(
        "zones: [a, b, a]",
        ".zones: zones must differ from each other",
        ".zones: zones must differ from each other",
    ),
    Bad(
        "zones: [a, b, 3]",
        ".zones[2]: expected a string (put it in quotes), found an integer",
        ".zones[2]: must be of type string",
    ),
    Bad(
        "engine: {version: 9.1}",
        ".engine.version: 9.1 is not supported; use '9.1.2'",
        ".engine.version: must be of type string",
    ),
    Bad("engine: 5", ".engine: expected a map, found an integer", ".engine: must be of type object"),
    Bad(
        "engine: {ioThreads: 0}",
        ".engine.ioThreads: 0 is out of range; use at least 1",
        ".engine.ioThreads: should be greater than or equal to 1",
    ),
    Bad(
        "engine: {parameters: [a]}",
        ".engine.parameters: expected a map of parameter names to values",
        ".engine.parameters: must be of type object",
    ),
    Bad(
        "engine: {parameters: {appendonly: yes}}",
        ".engine.parameters.appendonly: durability stands on this parameter, so MemoryCluster sets it; remove it",
        ".engine.parameters.appendonly: unknown",
    ),
    Bad(
        "engine: {parameters: {txlog-enabled: 'no'}}",
        ".engine.parameters.txlog-enabled: durability stands on this parameter, so MemoryCluster sets it; remove it",
        ".engine.parameters.txlog-enabled: unknown",
    ),
    Bad(
        "engine: {parameters: {io-threads: 4}}",
        ".engine.parameters.io-threads: set spec.engine.ioThreads instead",
        ".engine.parameters.io-threads: unknown",
    ),
    Bad(
        "engine: {parameters: {maxmemory-polcy: x}}",
        ".engine.parameters.maxmemory-polcy: not a parameter that can be set here; did you mean maxmemory-policy?",
        ".engine.parameters.maxmemory-polcy: unknown",
    ),
    Bad(
        "engine: {parameters: {requirepass: x}}",
        ".engine.parameters.requirepass: not a parameter that can be set here; remove it",
        ".engine.parameters.requirepass: unknown",
    ),
    Bad(
        "engine: {parameters: {activedefrag: yes}}",
        ".engine.parameters.activedefrag: expected a string or an integer; put the value in quotes",
        ".engine.parameters.activedefrag: must be of type integer,string",
    ),
    Bad(
        "engine: {parameters: {maxmemory: lots}}",
        ".engine.parameters.maxmemory: 'lots' is not bytes, like 100mb",
        ".engine.parameters.maxmemory: not bytes, like 100mb",
    ),
    Bad(
        "log: {maxBytes: 4GB}",
        ".log.maxBytes: '4GB' is not a quantity of bytes: write it like 4Gi or 512Mi",
        ".log.maxBytes: not a quantity of bytes: write it like 4Gi or 512Mi",
    ),
    Bad(
        "log: {maxBytes: true}",
        ".log.maxBytes: expected a quantity of bytes like 4Gi",
        ".log.maxBytes: must be of type integer,string",
    ),
    Bad(
        "log: {maxBytes: 1Mi}",
        ".log.maxBytes: '1Mi' is out of range; use at least 64Mi",
        ".log.maxBytes: out of range; use at least 64Mi and at most 1Pi",
    ),
    Bad(
        "failover: {lease: 5}",
        ".failover.lease: expected a duration like 5s",
        ".failover.lease: must be of type string",
    ),
    Bad(
        "failover: {lease: soon}",
        ".failover.lease: 'soon' is not a duration: write it like 5s, 500ms or 1m30s",
        ".failover.lease: not a duration: write it like 5s, 500ms or 1m30s",
    ),
    Bad(
        "failover: {lease: 500ms}",
        ".failover.lease: '500ms' is out of range; use at least 1s",
        ".failover.lease: out of range; use at least 1s and at most 60s",
    ),
    Bad(
        "failover: {lease: 2m}",
        ".failover.lease: '2m' is out of range; use at most 60s",
        ".failover.lease: out of range; use at least 1s and at most 60s",
    ),
    Bad(
        "engine: {image: 'a b'}",
        ".engine.image: 'a b' is not an image: write it like registry.example.com/engine:9.1.2",
        ".engine.image: not an image: write it like registry.example.com/engine:9.1.2",
    ),
    Bad(
        "engine: {image: ''}",
        ".engine.image: '' is not an image: write it like registry.example.com/engine:9.1.2",
        ".engine.image: not an image: write it like registry.example.com/engine:9.1.2",
    ),
    Bad(
        "engine: {imagePullPolicy: Sometimes}",
        ".engine.imagePullPolicy: 'Sometimes' is not supported; use 'Always', 'IfNotPresent' or 'Never'",
        '.engine.imagePullPolicy: supported values: "Always", "IfNotPresent", "Never"',
    ),
    Bad(
        "engine: {resources: {requests: {cpu: lots}}}",
        ".engine.resources.requests.cpu: 'lots' is not a quantity: write it like 500m, 2 or 4Gi",
        ".engine.resources.requests[cpu]: not a quantity: write it like 500m, 2 or 4Gi",
    ),
    Bad(
        "engine: {resources: {requests: {cpu: 0.5}}}",
        ".engine.resources.requests.cpu: 0.5 is not a quantity: write it like 500m, 2 or 4Gi",
        ".engine.resources.requests.cpu: must be of type integer,string",
    ),
    Bad(
        "engine: {resources: {limits: {memory: true}}}",
        ".engine.resources.limits.memory: True is not a quantity: write it like 500m, 2 or 4Gi",
        ".engine.resources.limits.memory: must be of type integer,string",
    ),
    Bad(
        "engine: {agentResources: {claims: []}}",
        ".engine.agentResources.claims: unknown field; remove it (known here: requests, limits)",
        ".engine.agentResources.claims: unknown",
    ),
    Bad(
        "engine: {parameters: {hz: '٣'}}",
        ".engine.parameters.hz: '٣' is not an integer, 0 or more",
        ".engine.parameters.hz: not an integer, 0 or more",
    ),
    Bad(
        "engine: {parameters: {maxmemory-policy: lru}}",
        ".engine.parameters.maxmemory-policy: 'lru' is not one of noeviction, allkeys-lru, allkeys-lfu, allkeys-random, volatile-lru, volatile-lfu, volatile-random, volatile-ttl",
        ".engine.parameters.maxmemory-policy: not one of noeviction, allkeys-lru, allkeys-lfu, allkeys-random, volatile-lru, volatile-lfu, volatile-random, volatile-ttl",
    ),
    Bad(
        "zones: [a, b, c, d]",
        ".zones: 4 zones; name 1 or 3 (two zones can't lose one and keep a majority)",
        ".zones: name 1 or 3 (two zones can't lose one and keep a majority)",
    ),
    Bad(
        "zones: [zone-a, Zone-A, zone-b]",
        ".zones: zones must differ from each other",
        ".zones: zones must differ from each other",
    ),
    Bad(
        "zones: ['zone a']",
        ".zones[0]: 'zone a' is not a zone: use letters, digits, '-', '_' and '.'",
        ".zones[0]: not a zone: use letters, digits, '-', '_' and '.'",
    ),
    Bad(
        "zones: ['..']",
        ".zones[0]: '..' is not a zone: use letters, digits, '-', '_' and '.'",
        ".zones[0]: not a zone: use letters, digits, '-', '_' and '.'",
    ),
    Bad(
        "log: {maxBytes: 2P}",
        ".log.maxBytes: '2P' is out of range; use at most 1Pi",
        ".log.maxBytes: out of range; use at least 64Mi and at most 1Pi",
    ),
    Bad(
        "log: {storage: {size: 4Gi}}",
        ".log.storage.size: 4Gi is too small for 1 + 1 times log.maxBytes; use at least 8Gi",
        ".log.storage.size: too small for what the logs may take: use at least log.maxBytes times one more than shards",
    ),
    Bad(
        "{shards: 3, log: {maxBytes: 1Gi, storage: {size: 4000Mi}}}",
        ".log.storage.size: 4000Mi is too small for 3 + 1 times log.maxBytes; use at least 4Gi",
        ".log.storage.size: too small for what the logs may take: use at least log.maxBytes times one more than shards",
    ),
    Bad(
        "log: {storage: {size: big}}",
        ".log.storage.size: 'big' is not a quantity of bytes: write it like 4Gi or 512Mi",
        ".log.storage.size: not a quantity of bytes: write it like 4Gi or 512Mi",
    ),
    Bad(
        "log: {storage: {storageClassName: Fast}}",
        ".log.storage.storageClassName: 'Fast' is not the name of an object: use lower-case letters, digits, '-' and '.'",
        ".log.storage.storageClassName: not the name of an object: use lower-case letters, digits, '-' and '.'",
    ),
    Bad(
        "log: {image: 5}",
        ".log.image: expected a string (put it in quotes), found an integer",
        ".log.image: must be of type string",
    ),
    Bad(
        "failover: {lease: 0.0000001s}",
        ".failover.lease: '0.0000001s' is not a duration: write it like 5s, 500ms or 1m30s",
        ".failover.lease: not a duration: write it like 5s, 500ms or 1m30s",
    ),
    Bad(
        "snapshots: {beforeDeleteTimeout: 59s}",
        ".snapshots.beforeDeleteTimeout: '59s' is out of range; use at least 60s",
        ".snapshots.beforeDeleteTimeout: out of range; use at least 1m and at most 168h",
    ),
    Bad(
        "failover: {lease: 61s}",
        ".failover.lease: '61s' is out of range; use at most 60s",
        ".failover.lease: out of range; use at least 1s and at most 60s",
    ),
    Bad(
        "networkPolicy: {from: {}}",
        ".networkPolicy.from: expected a list, found a map",
        ".networkPolicy.from: must be of type array",
    ),
    Bad(
        "networkPolicy: {from: [{}]}",
        ".networkPolicy.from[0]: name podSelector, namespaceSelector or both, or ipBlock alone",
        ".networkPolicy.from[0]: name podSelector, namespaceSelector or both, or ipBlock alone",
    ),
    Bad(
        "networkPolicy: {from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}",
        ".networkPolicy.from[0]: name podSelector, namespaceSelector or both, or ipBlock alone",
        ".networkPolicy.from[0]: name podSelector, namespaceSelector or both, or ipBlock alone",
    ),
    Bad(
        "networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.1}}]}",
        ".networkPolicy.from[0].ipBlock.cidr: '10.0.0.1' is not a range of addresses: write it like 10.0.0.0/8",
        ".networkPolicy.from[0].ipBlock.cidr: not a range of addresses: write it like 10.0.0.0/8",
    ),
    Bad(
        "networkPolicy: {from: [{ipBlock: {}}]}",
        ".networkPolicy.from[0].ipBlock.cidr: missing; add it",
        ".networkPolicy.from[0].ipBlock.cidr: Required value",
    ),
    Bad(
        "networkPolicy: {from: [{podSelector: {app: web}}]}",
        ".networkPolicy.from[0].podSelector.app: unknown field; remove it (known here: matchLabels, matchExpressions)",
        ".networkPolicy.from[0].podSelector.app: unknown",
    ),
    Bad(
        "networkPolicy: {from: [{podSelector: {matchExpressions: [{key: a, operator: Is}]}}]}",
        ".networkPolicy.from[0].podSelector.matchExpressions[0].operator: 'Is' is not supported; use 'In', 'NotIn', 'Exists' or 'DoesNotExist'",
        '.networkPolicy.from[0].podSelector.matchExpressions[0].operator: supported values: "In", "NotIn", "Exists", "DoesNotExist"',
    ),
    Bad(
        "deletionPolicy: Keep",
        ".deletionPolicy: 'Keep' is not supported; use 'Retain' or 'Delete'",
        '.deletionPolicy: supported values: "Retain", "Delete"',
    ),
    Bad(
        "paused: 'true'",
        ".paused: expected true or false, found a string",
        ".paused: must be of type boolean",
    ),
    Bad(
        "scheduling: {nodeSelector: {disk: 1}}",
        ".scheduling.nodeSelector.disk: expected a string (put it in quotes), found an integer",
        ".scheduling.nodeSelector.disk: must be of type string",
    ),
    Bad(
        "scheduling: {tolerations: [{effect: Never}]}",
        ".scheduling.tolerations[0].effect: 'Never' is not supported; use 'NoSchedule', 'PreferNoSchedule' or 'NoExecute'",
        '.scheduling.tolerations[0].effect: supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"',
    ),
    Bad(
        "scheduling: {priorityClassName: Top}",
        ".scheduling.priorityClassName: 'Top' is not the name of an object: use lower-case letters, digits, '-' and '.'",
        ".scheduling.priorityClassName: not the name of an object: use lower-case letters, digits, '-' and '.'",
    ),
    Bad(
        "scheduling: {affinity: {}}",
        ".scheduling.affinity: unknown field; remove it (known here: nodeSelector, tolerations, priorityClassName)",
        ".scheduling.affinity: unknown",
    ),
    Bad(
        "imagePullSecrets: [mine]",
        ".imagePullSecrets[0]: expected a map, found a string",
        ".imagePullSecrets[0]: must be of type object",
    ),
    Bad(
        "imagePullSecrets: [{name: Mine}]",
        ".imagePullSecrets[0].name: 'Mine' is not the name of an object: use lower-case letters, digits, '-' and '.'",
        ".imagePullSecrets[0].name: not the name of an object: use lower-case letters, digits, '-' and '.'",
    ),
    Bad(
        "networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.300/8}}]}",
        ".networkPolicy.from[0].ipBlock.cidr: '10.0.0.300/8' is not a range of addresses: write it like 10.0.0.0/8",
        ".networkPolicy.from[0].ipBlock.cidr: not a range of addresses: write it like 10.0.0.0/8",
    ),
    Bad(
        "networkPolicy: {from: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}",
        ".networkPolicy.from[0].ipBlock.cidr: '::ffff:10.0.0.0/104' is IPv4 written as IPv6; write it like 10.0.0.0/8",
        ".networkPolicy.from[0].ipBlock.cidr: not a range of addresses: write it like 10.0.0.0/8",
    ),
    Bad(
        "networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}",
        ".networkPolicy.from[0].ipBlock.except[0]: 11.0.0.0/16 is no part of 10.0.0.0/8",
        ".networkPolicy.from[0].ipBlock.except: not ranges that are parts of cidr",
    ),
    Bad(
        "networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.1/8]}}]}",
        ".networkPolicy.from[0].ipBlock.except[0]: 10.0.0.1/8 is no part of 10.0.0.0/8",
        ".networkPolicy.from[0].ipBlock.except: not ranges that are parts of cidr",
    ),
    Bad(
        "networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/16']}}]}",
        ".networkPolicy.from[0].ipBlock.except[0]: fd00::/16 is no part of 10.0.0.0/8",
        ".networkPolicy.from[0].ipBlock.except: not ranges that are parts of cidr",
    ),
    Bad(
        "networkPolicy: {from: [{podSelector: {matchExpressions: [{key: a, operator: In}]}}]}",
        ".networkPolicy.from[0].podSelector.matchExpressions[0]: In and NotIn need values, Exists and DoesNotExist take none",
        ".networkPolicy.from[0].podSelector.matchExpressions[0]: In and NotIn need values, Exists and DoesNotExist take none",
    ),
    Bad(
        "networkPolicy: {from: [{namespaceSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]}",
        ".networkPolicy.from[0].namespaceSelector.matchExpressions[0]: In and NotIn need values, Exists and DoesNotExist take none",
        ".networkPolicy.from[0].namespaceSelector.matchExpressions[0]: In and NotIn need values, Exists and DoesNotExist take none",
    ),
    Bad(
        "scheduling: {tolerations: [{operator: Exists, value: b}]}",
        ".scheduling.tolerations[0]: Exists takes no value; remove it, or use Equal",
        ".scheduling.tolerations[0]: Exists takes no value; remove it, or use Equal",
    ),
    Bad(
        "scheduling: {tolerations: [{}]}",
        ".scheduling.tolerations[0]: Equal needs a key; name it, or use Exists",
        ".scheduling.tolerations[0]: Equal needs a key; name it, or use Exists",
    ),
    Bad(
        "scheduling: {tolerations: [{key: a, tolerationSeconds: 5}]}",
        ".scheduling.tolerations[0]: tolerationSeconds goes with effect: NoExecute only",
        ".scheduling.tolerations[0]: tolerationSeconds goes with effect: NoExecute only",
    ),
    Bad(
        "engine: {resources: {requests: {cpu: 1500m}, limits: {cpu: 1}}}",
        ".engine.resources.requests.cpu: 1500m is more than the limit of 1",
        ".engine.resources.requests: more than the limit",
    ),
    Bad(
        "log: {resources: {requests: {memory: 1Gi}, limits: {memory: 1G}}}",
        ".log.resources.requests.memory: 1Gi is more than the limit of 1G",
        ".log.resources.requests: more than the limit",
    ),
]
