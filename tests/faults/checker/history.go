package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"sort"
)

// An Operation is one line of a history. Times are nanoseconds of one monotonic clock.
type Operation struct {
	Key     string          `json:"key"`
	Model   string          `json:"model"`
	Op      string          `json:"op"`
	Args    []string        `json:"args"`
	Result  json.RawMessage `json:"result"`
	Known   bool            `json:"known"` // false: the client doesn't know whether it was applied
	Call    int64           `json:"call"`
	Return  int64           `json:"return"` // of an operation of unknown outcome: never
	Client  int             `json:"client"`
	Node    string          `json:"node"`
	Replica bool            `json:"replica"` // a READONLY read: late is fine, out of order is not

	out any
}

const never = math.MaxInt64

func (o *Operation) String() string {
	outcome := string(o.Result)
	if !o.Known {
		outcome = "unknown"
	}
	if len(outcome) > 400 {
		outcome = outcome[:200] + " ... " + outcome[len(outcome)-200:]
	}
	from := fmt.Sprintf("client %d at %s", o.Client, o.Node)
	if o.Replica {
		from += " (replica)"
	}
	end := "never"
	if o.Return != never {
		end = fmt.Sprintf("%.6f", float64(o.Return)/1e9)
	}
	return fmt.Sprintf("[%.6f, %s] %s: %s %q -> %s", float64(o.Call)/1e9, end, from, o.Op, o.Args, outcome)
}

// A Partition is what happened to one key (or one bundle of keys that are always written together).
type Partition struct {
	Key     string
	Model   *model
	Primary []*Operation // in order of their calls
	Replica []*Operation
}

func readHistory(in io.Reader) ([]*Partition, int, error) {
	byKey := map[string]*Partition{}
	lines := bufio.NewReaderSize(in, 1<<20)
	count := 0
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 1 {
			count++
			operation := &Operation{}
			if err := json.Unmarshal(line, operation); err != nil {
				return nil, count, fmt.Errorf("line %d: %w", count, err)
			}
			if err := place(byKey, operation); err != nil {
				return nil, count, fmt.Errorf("line %d: %w", count, err)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, count, err
		}
	}
	partitions := make([]*Partition, 0, len(byKey))
	for _, partition := range byKey {
		byCall(partition.Primary)
		byCall(partition.Replica)
		partitions = append(partitions, partition)
	}
	sort.Slice(partitions, func(i, j int) bool { return partitions[i].Key < partitions[j].Key })
	return partitions, count, nil
}

func byCall(operations []*Operation) {
	sort.SliceStable(operations, func(i, j int) bool { return operations[i].Call < operations[j].Call })
}

func place(byKey map[string]*Partition, o *Operation) error {
	m, ok := models[o.Model]
	if !ok {
		return fmt.Errorf("no such model: %q", o.Model)
	}
	kind, ok := m.ops[o.Op]
	if !ok {
		return fmt.Errorf("model %s has no operation %q", o.Model, o.Op)
	}
	if len(o.Args) != kind.args {
		return fmt.Errorf("%s %s takes %d arguments", o.Model, o.Op, kind.args)
	}
	if !o.Known {
		if kind.read {
			return nil // it tells nothing
		}
		o.Return = never
	} else {
		if o.Return < o.Call {
			return fmt.Errorf("%s %s returned before it was called", o.Key, o.Op)
		}
		out, err := kind.parse(o.Result)
		if err != nil {
			return fmt.Errorf("%s %s %s: result %s: %w", o.Model, o.Key, o.Op, o.Result, err)
		}
		o.out = out
	}
	if o.Replica && !kind.read {
		return fmt.Errorf("%s %s: only reads may be marked as a replica's", o.Key, o.Op)
	}
	partition := byKey[o.Key]
	if partition == nil {
		partition = &Partition{Key: o.Key, Model: m}
		byKey[o.Key] = partition
	}
	if partition.Model != m {
		return fmt.Errorf("key %s has two models, %s and %s", o.Key, partition.Model.name, m.name)
	}
	if o.Replica {
		partition.Replica = append(partition.Replica, o)
	} else {
		partition.Primary = append(partition.Primary, o)
	}
	return nil
}
