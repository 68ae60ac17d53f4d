"""The columns of `trajectories/<phase>-<step>.parquet`, documented here only.

One row per attempt; a Target is never in it. Token columns concatenate all segments of the attempt;
`segments` says where each starts, and positions in `versions` and `turns` are relative to the segment.
Readers: `record/reading.py` for records, `view/` for the report, pandas for people.
"""

# pyarrow ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1

SEGMENT = pa.struct(
    {
        "id": pa.int32(),
        "parent": pa.int32(),
        "prefix_len": pa.int32(),  # tokens shared with the parent
        "agent": pa.string(),
        "role": pa.string(),
        "policy": pa.string(),
        "spawned_by": pa.int32(),  # event index
        "start": pa.int32(),  # first row of this segment in the token columns
        "stop": pa.int32(),
        "num_spans": pa.int32(),  # number of entries in `versions`
    }
)
VERSION = pa.struct({"start": pa.int32(), "stop": pa.int32(), "version": pa.int64()})
TURN = pa.struct(
    {
        "segment": pa.int32(),
        "start": pa.int32(),  # relative to the segment
        "stop": pa.int32(),
        "stopped": pa.string(),
        "effort": pa.string(),
        "hard_budget": pa.int32(),
        "temperature": pa.float64(),
        "top_p": pa.float64(),
        "calls": pa.list_(pa.int32()),  # event indices
        "continues": pa.bool_(),  # goes on with the turn before it
        "think_budget": pa.int32(),  # null: none
        "num_thought": pa.int32(),
        "num_leaked": pa.int32(),
        "mode": pa.string(),  # chosen at `auto`, on an attempt's first turn
        "is_steered": pa.bool_(),
    }
)
BUDGET = pa.struct({"turns": pa.int64(), "calls": pa.int64(), "tokens": pa.int64()})
EVENT = pa.struct(
    {
        "index": pa.int32(),
        "tool": pa.string(),
        "arguments": pa.string(),  # JSON
        "raw": pa.string(),  # what the policy sampled
        "problem": pa.string(),  # why that could not be parsed
        "text": pa.string(),  # what the policy read
        "exit_code": pa.int32(),
        "fault": pa.string(),
        "ended": pa.bool_(),
        "truncated_bytes": pa.int64(),
        "wall_s": pa.float64(),
        "cpu_s": pa.float64(),
        "left": BUDGET,
    }
)
FLAG = pa.struct(
    {
        "kind": pa.string(),
        "is_proof": pa.bool_(),
        "detail": pa.string(),
        "where": pa.string(),
        "event": pa.int32(),
    }
)
# from call `event` on
PENALTY = pa.struct({"reward": pa.float64(), "floor": pa.float64(), "event": pa.int32()})
# reward is null when void
GOLD = pa.struct({"reward": pa.float64(), "evidence": pa.string(), "chance": pa.float64()})
LINEAGE = pa.struct(
    {"parent": pa.string(), "event": pa.int32(), "snapshot": pa.string(), "without": pa.string()}
)

SCHEMA = pa.schema(
    {
        "phase": pa.string(),
        "step": pa.int32(),
        "group": pa.int64(),
        "slot": pa.int32(),
        "tries": pa.int32(),
        "task_id": pa.string(),
        "env": pa.string(),
        "split": pa.string(),
        "family": pa.string(),
        "level": pa.int32(),
        "tags": pa.list_(pa.string()),
        "dialect": pa.string(),
        "prompt": pa.string(),  # in the dialect used
        "task": pa.string(),  # JSON: every dialect's prompt, tools, limits
        "end": pa.string(),
        "fault": pa.string(),
        "detail": pa.string(),
        "status": pa.string(),  # scored, void
        "success": pa.bool_(),  # full marks, and no penalty; null when void
        "reward": pa.float64(),  # null when void
        "cost": pa.float64(),  # of thinking and the critical path, at their prices
        "scores": pa.string(),  # JSON
        "evidence": pa.string(),
        "grade_seed": pa.int64(),
        "flags": pa.list_(FLAG),  # signs of cheating, from grader or monitor
        "quarantine": pa.string(),  # why the reward is not trusted; empty: trusted
        "penalty": PENALTY,  # null without a penalty
        "gold": GOLD,  # from the held-out validator; null where it did not judge
        "num_turns": pa.int32(),
        "num_calls": pa.int32(),
        "num_sampled": pa.int32(),
        "wall_s": pa.float64(),
        "tool_wall_s": pa.float64(),
        "tool_cpu_s": pa.float64(),
        "ids": pa.list_(pa.int32()),
        "pieces": pa.list_(pa.string()),  # `ids` as text, for people
        "logprobs": pa.list_(pa.float32()),  # log mu; NaN for tokens that were not sampled
        "kinds": pa.list_(pa.int8()),
        "channels": pa.list_(pa.int8()),
        "versions": pa.list_(VERSION),
        "advantages": pa.list_(pa.float32()),  # null if the attempt was not trained on
        "trainer_logprobs": pa.list_(pa.float32()),  # log pi_old
        "ratios": pa.list_(pa.float32()),  # w = pi_old / mu
        "segments": pa.list_(SEGMENT),
        "turns": pa.list_(TURN),
        "events": pa.list_(EVENT),
        "lineage": LINEAGE,
    },
    metadata={"agito_schema_version": str(SCHEMA_VERSION)},
)
