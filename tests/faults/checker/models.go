package main

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"sort"
	"strings"

	"github.com/anishathalye/porcupine"
)

// A model is what a key of one kind does when its operations are run one after the other. Its states are
// comparable values (==), so that the checker recognises those that it has seen.
type model struct {
	name string
	init any
	ops  map[string]kind
	// wrote names the value that an operation wrote, if every such value is written only once.
	wrote func(o *Operation) (string, bool)
	// saw lists the values that a result shows to have been written.
	saw func(o *Operation) []string
	// size is how far a result of an append-only key has come; nil: replica reads aren't checked for order.
	size func(o *Operation) (int64, bool)
}

type kind struct {
	args  int
	read  bool
	parse func(json.RawMessage) (any, error)
	// step returns the state after the operation, and whether its result (o.out if o.Known) fits.
	step func(state any, o *input) (any, bool)
}

// An input is an operation as the models see it.
type input struct {
	*Operation
	args []string // o.Args; a value of unknown outcome that nobody saw is `unseen`
	// group and rank place an operation of unknown outcome among those that are interchangeable with it: in any
	// order that explains the history, they may be taken in the order of their calls, so only that is tried.
	group, rank int
	// place is where in the list its value stands for good; -1: nowhere, as far as was read.
	place int64
	// settled is how many values stand for good.
	settled int64
}

const unseen = "?"

const maxGroups = 12

// A world is a model's state, and how many operations of each group have been taken.
type world struct {
	state any
	taken [maxGroups]int
}

var models = map[string]*model{}

func register(m *model) { models[m.name] = m }

var seed = maphash.MakeSeed()

func (m *model) porcupine() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return world{state: m.init} },
		Step: func(state, in, _ any) (bool, any) {
			w, o := state.(world), in.(*input)
			if o.group >= 0 {
				if w.taken[o.group] != o.rank {
					return false, w
				}
				w.taken[o.group]++
			}
			after, ok := m.ops[o.Op].step(w.state, o)
			w.state = after
			return ok, w
		},
		Hash: func(state any) uint64 { return maphash.String(seed, fmt.Sprint(state)) },
	}
}

// ---- what results look like

func parseAs[T any](raw json.RawMessage) (any, error) {
	var value T
	if raw == nil {
		return value, nil
	}
	err := json.Unmarshal(raw, &value)
	return value, err
}

// optional is a string or null.
type optional struct {
	present bool
	value   string
}

func parseOptional(raw json.RawMessage) (any, error) {
	var value *string
	if err := json.Unmarshal(raw, &value); err != nil {
		return nil, err
	}
	if value == nil {
		return optional{}, nil
	}
	return optional{true, *value}, nil
}

func parseNothing(json.RawMessage) (any, error) { return nil, nil }

func observed(o *Operation) []string {
	if value, ok := o.out.(optional); ok && value.present {
		return []string{value.value}
	}
	return nil
}

// ---- register: set v, get -> v, cas old new -> bool ("" as old: absent)

func init() {
	register(&model{
		name: "register",
		init: optional{},
		ops: map[string]kind{
			"set": {args: 1, parse: parseNothing, step: func(_ any, o *input) (any, bool) {
				return optional{true, o.args[0]}, true
			}},
			"get": {read: true, parse: parseOptional, step: func(state any, o *input) (any, bool) {
				return state, state == o.out
			}},
			"cas": {args: 2, parse: parseAs[bool], step: func(state any, o *input) (any, bool) {
				swap := state == optional{o.args[0] != "", o.args[0]}
				if o.Known && swap != o.out.(bool) {
					return state, false
				}
				if swap {
					return optional{true, o.args[1]}, true
				}
				return state, true
			}},
		},
		wrote: func(o *Operation) (string, bool) {
			switch o.Op {
			case "set":
				return o.Args[0], true
			case "cas":
				return o.Args[1], true
			}
			return "", false
		},
		saw: observed,
	})
}

// ---- counter: incr -> n, get -> n (absent: 0)

func init() {
	register(&model{
		name: "counter",
		init: int64(0),
		ops: map[string]kind{
			"incr": {parse: parseAs[int64], step: func(state any, o *input) (any, bool) {
				after := state.(int64) + 1
				return after, !o.Known || after == o.out.(int64)
			}},
			"get": {read: true, parse: parseAs[int64], step: func(state any, o *input) (any, bool) {
				return state, state == o.out
			}},
		},
		size: func(o *Operation) (int64, bool) { return o.out.(int64), true },
	})
}

// ---- list: push v -> length, pop -> v, read -> [v], len -> n. Values are unique and hold no comma.

type list struct {
	values string // each with a comma behind it
	length int64
}

func (l list) push(value string) list {
	l.values += value + ","
	l.length++
	return l
}

func joined(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return strings.Join(values, ",") + ","
}

func init() {
	register(&model{
		name: "list",
		init: list{},
		ops: map[string]kind{
			"push": {args: 1, parse: parseAs[int64], step: func(state any, o *input) (any, bool) {
				after := state.(list).push(o.args[0])
				return after, !o.Known || after.length == o.out.(int64)
			}},
			"pop": {parse: parseOptional, step: func(state any, o *input) (any, bool) {
				l := state.(list)
				popped := optional{}
				if l.length > 0 {
					comma := strings.IndexByte(l.values, ',')
					popped = optional{true, l.values[:comma]}
					l.values = l.values[comma+1:]
					l.length--
				}
				return l, !o.Known || popped == o.out.(optional)
			}},
			"read": {read: true, parse: parseAs[[]string], step: func(state any, o *input) (any, bool) {
				return state, state.(list).values == joined(o.out.([]string))
			}},
			"len": {read: true, parse: parseAs[int64], step: func(state any, o *input) (any, bool) {
				return state, state.(list).length == o.out.(int64)
			}},
		},
		wrote: pushed,
		saw: func(o *Operation) []string {
			if values, ok := o.out.([]string); ok {
				return values
			}
			return observed(o)
		},
	})
}

func pushed(o *Operation) (string, bool) {
	if o.Op == "push" {
		return o.Args[0], true
	}
	return "", false
}

// ---- stream: push v -> id, read -> [[id, v]], len -> n. Nothing is ever removed.

type entry struct{ id, value string }

func (e *entry) UnmarshalJSON(raw []byte) error {
	var pair [2]string
	if err := json.Unmarshal(raw, &pair); err != nil {
		return err
	}
	e.id, e.value = pair[0], pair[1]
	return nil
}

func values(entries []entry) []string {
	result := make([]string, len(entries))
	for i, e := range entries {
		result[i] = e.value
	}
	return result
}

func init() {
	register(&model{
		name: "stream",
		init: list{},
		ops: map[string]kind{
			"push": {args: 1, parse: parseAs[string], step: func(state any, o *input) (any, bool) {
				l := state.(list)
				fits := l.length == o.place || (o.place < 0 && l.length >= o.settled)
				return l.push(o.args[0]), fits
			}},
			"read": {read: true, parse: parseAs[[]entry], step: func(state any, o *input) (any, bool) {
				return state, state.(list).values == joined(values(o.out.([]entry)))
			}},
			"len": {read: true, parse: parseAs[int64], step: func(state any, o *input) (any, bool) {
				return state, state.(list).length == o.out.(int64)
			}},
		},
		wrote: pushed,
		saw: func(o *Operation) []string {
			if entries, ok := o.out.([]entry); ok {
				return values(entries)
			}
			return nil
		},
		size: func(o *Operation) (int64, bool) {
			switch out := o.out.(type) {
			case []entry:
				return int64(len(out)), true
			case int64:
				return out, true
			}
			return 0, false
		},
	})
}

// ---- map: set f v -> 1 if new, get f -> v, del f -> 1 if it was there, read -> {f: v}. Hashes, sorted sets.
// Values are unique; no field holds "=", no value a comma.

func field(state, name string) (start, end int) {
	start = strings.Index(state, ","+name+"=")
	if start < 0 {
		return -1, -1
	}
	return start, start + 1 + strings.IndexByte(state[start+1:], ',')
}

func encodeMap(fields map[string]string) string {
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	sort.Strings(names)
	state := ","
	for _, name := range names {
		state += name + "=" + fields[name] + ","
	}
	return state
}

func decodeMap(state string) map[string]string {
	fields := map[string]string{}
	for _, pair := range strings.Split(strings.Trim(state, ","), ",") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			fields[name] = value
		}
	}
	return fields
}

func init() {
	register(&model{
		name: "map",
		init: ",",
		ops: map[string]kind{
			"set": {args: 2, parse: parseAs[int64], step: func(state any, o *input) (any, bool) {
				fields := decodeMap(state.(string))
				_, had := fields[o.args[0]]
				if o.Known && had == (o.out.(int64) == 1) {
					return state, false
				}
				fields[o.args[0]] = o.args[1]
				return encodeMap(fields), true
			}},
			"get": {args: 1, read: true, parse: parseOptional, step: func(state any, o *input) (any, bool) {
				s := state.(string)
				want := o.out.(optional)
				start, end := field(s, o.args[0])
				if start < 0 {
					return state, !want.present
				}
				return state, want.present && s[start+len(o.args[0])+2:end] == want.value
			}},
			"del": {args: 1, parse: parseAs[int64], step: func(state any, o *input) (any, bool) {
				s := state.(string)
				start, end := field(s, o.args[0])
				if o.Known && (start >= 0) != (o.out.(int64) == 1) {
					return state, false
				}
				if start >= 0 {
					s = s[:start] + s[end:]
				}
				return s, true
			}},
			"read": {read: true, parse: parseAs[map[string]string], step: func(state any, o *input) (any, bool) {
				return state, state.(string) == encodeMap(o.out.(map[string]string))
			}},
		},
		wrote: func(o *Operation) (string, bool) {
			if o.Op == "set" {
				return o.Args[1], true
			}
			return "", false
		},
		saw: func(o *Operation) []string {
			if fields, ok := o.out.(map[string]string); ok {
				seen := make([]string, 0, len(fields))
				for _, value := range fields {
					seen = append(seen, value)
				}
				return seen
			}
			return observed(o)
		},
	})
}

// ---- bundle: three keys that one MULTI or one script always writes together: two registers and a counter.
// write v -> n, read -> [a, b, n]: torn if a is not b.

type bundle struct {
	value string
	count int64
}

type reading struct {
	a, b  string
	count int64
}

func parseReading(raw json.RawMessage) (any, error) {
	var triple [3]any
	if err := json.Unmarshal(raw, &triple); err != nil {
		return nil, err
	}
	r := reading{}
	r.a, _ = triple[0].(string)
	r.b, _ = triple[1].(string)
	count, _ := triple[2].(float64)
	r.count = int64(count)
	return r, nil
}

func init() {
	register(&model{
		name: "bundle",
		init: bundle{},
		ops: map[string]kind{
			"write": {args: 1, parse: parseAs[int64], step: func(state any, o *input) (any, bool) {
				after := bundle{o.args[0], state.(bundle).count + 1}
				return after, !o.Known || after.count == o.out.(int64)
			}},
			"read": {read: true, parse: parseReading, step: func(state any, o *input) (any, bool) {
				b, r := state.(bundle), o.out.(reading)
				return state, r == reading{b.value, b.value, b.count}
			}},
		},
		wrote: func(o *Operation) (string, bool) {
			if o.Op == "write" {
				return o.Args[0], true
			}
			return "", false
		},
		saw: func(o *Operation) []string {
			if r, ok := o.out.(reading); ok && r.a != "" {
				return []string{r.a, r.b}
			}
			return nil
		},
		size: func(o *Operation) (int64, bool) {
			if r, ok := o.out.(reading); ok {
				return r.count, true
			}
			return 0, false
		},
	})
}
