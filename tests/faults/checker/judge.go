package main

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

func judge(p *Partition, timeout time.Duration) []Problem {
	if problems := identity(p); len(problems) > 0 {
		return problems[:min(len(problems), 3)] // what follows assumes that values are what they seem
	}
	return append(replicas(p), linearizability(p, timeout)...)
}

// identity: a value that was read must have been written, and an entry keeps the id that it was acknowledged with.
func identity(p *Partition) []Problem {
	if p.Model.wrote == nil {
		return nil
	}
	var problems []Problem
	writer := map[string]*Operation{}
	for _, o := range p.Primary {
		if value, ok := p.Model.wrote(o); ok {
			if other := writer[value]; other != nil {
				problems = append(problems, Problem{p.Key, "identity", "the history writes a value twice", []string{other.String(), o.String()}})
			}
			writer[value] = o
		}
	}
	ids := map[string]string{}
	for _, o := range append(append([]*Operation{}, p.Primary...), p.Replica...) {
		if !o.Known {
			continue
		}
		for _, value := range p.Model.saw(o) {
			if w := writer[value]; w == nil {
				problems = append(problems, Problem{p.Key, "identity", fmt.Sprintf("value %q was read but never written", value), []string{o.String()}})
			} else if w.Call > o.Return {
				problems = append(problems, Problem{p.Key, "identity", fmt.Sprintf("value %q was read before it was written", value), []string{o.String(), w.String()}})
			}
		}
		if id, ok := o.out.(string); ok && o.Model == "stream" {
			problems = append(problems, sameID(p, ids, o, entry{id, o.Args[0]})...)
		}
		if entries, ok := o.out.([]entry); ok {
			for _, e := range entries {
				problems = append(problems, sameID(p, ids, o, e)...)
			}
		}
	}
	return problems
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func sameID(p *Partition, ids map[string]string, o *Operation, e entry) []Problem {
	known, ok := ids[e.value]
	ids[e.value] = e.id
	if ok && known != e.id {
		return []Problem{{p.Key, "identity", fmt.Sprintf("entry %q has two ids, %s and %s", e.value, known, e.id), []string{o.String()}}}
	}
	return nil
}

// replicas: a READONLY read shows committed data only, and a node never goes back. Only append-only kinds are
// judged here. That what was seen stays is judged with the primary's history, by `observations`.
func replicas(p *Partition) []Problem {
	if p.Model.size == nil {
		return nil
	}
	var problems []Problem
	byNode := map[string][]*Operation{}
	for _, o := range p.Replica {
		byNode[o.Node] = append(byNode[o.Node], o)
	}
	for _, reads := range byNode {
		problems = append(problems, monotonic(p, reads)...)
	}
	longest := longestRead(p)
	for _, o := range p.Replica {
		if entries, ok := o.out.([]entry); ok {
			if !strings.HasPrefix(longest, joined(values(entries))) {
				problems = append(problems, Problem{p.Key, "replica", "a replica showed what isn't a prefix of the longest read", []string{o.String()}})
			}
		}
		if r, ok := o.out.(reading); ok && r.a != r.b {
			problems = append(problems, Problem{p.Key, "replica", "a replica showed a torn transaction", []string{o.String()}})
		}
	}
	return append(problems, vanished(p)...)
}

func longestRead(p *Partition) string {
	longest := ""
	for _, o := range append(append([]*Operation{}, p.Primary...), p.Replica...) {
		if entries, ok := o.out.([]entry); ok {
			if read := joined(values(entries)); len(read) > len(longest) {
				longest = read
			}
		}
	}
	return longest
}

// monotonic: reads of one node, each sent after the other's answer, never show less.
func monotonic(p *Partition, reads []*Operation) []Problem {
	return neverLess(p, reads, reads, "a replica went back")
}

// vanished: what a replica has shown, the primary never lacks afterwards.
func vanished(p *Partition) []Problem {
	primary := make([]*Operation, 0, len(p.Primary))
	for _, o := range p.Primary {
		if o.Known {
			primary = append(primary, o)
		}
	}
	return neverLess(p, p.Replica, primary, "a replica showed what the primary didn't have later")
}

// neverLess: no operation of `after` that was called once one of `before` had returned shows less than that one.
func neverLess(p *Partition, before, after []*Operation, message string) []Problem {
	ended := append([]*Operation{}, before...)
	sort.Slice(ended, func(i, j int) bool { return ended[i].Return < ended[j].Return })
	var most *Operation
	var mostSize int64
	next := 0
	for _, o := range after {
		for ; next < len(ended) && ended[next].Return < o.Call; next++ {
			if size, ok := p.Model.size(ended[next]); ok && (most == nil || size > mostSize) {
				most, mostSize = ended[next], size
			}
		}
		if most == nil {
			continue
		}
		if size, ok := sizeAfter(p, o); ok && size < mostSize {
			return []Problem{{p.Key, "replica", message, []string{most.String(), o.String()}}} // one is enough
		}
	}
	return nil
}

func sizeAfter(p *Partition, o *Operation) (int64, bool) {
	if o.Op == "write" { // of a bundle: its result is the count
		return o.out.(int64), true
	}
	return p.Model.size(o)
}

// observations: a write whose value was seen, by anybody, had happened by then. This bounds writes of unknown
// outcome, and ties the replicas' reads to the primary's history. Returns also which values were seen.
func observations(p *Partition) (end map[*Operation]int64, seen map[string]bool) {
	end, seen = map[*Operation]int64{}, map[string]bool{}
	writer := map[string]*Operation{}
	for _, o := range p.Primary {
		end[o] = o.Return
		if p.Model.wrote != nil {
			if value, ok := p.Model.wrote(o); ok {
				writer[value] = o
			}
		}
	}
	if p.Model.saw == nil {
		return end, seen
	}
	for _, o := range append(append([]*Operation{}, p.Primary...), p.Replica...) {
		if !o.Known {
			continue
		}
		for _, value := range p.Model.saw(o) {
			seen[value] = true
			if w := writer[value]; w != nil && o.Return < end[w] {
				end[w] = o.Return
			}
		}
	}
	return end, seen
}

// inputs prepares the operations for the model, with what the whole history tells about each of them.
func inputs(p *Partition, seen map[string]bool) []*input {
	places := map[string]int64{}
	if p.Model.name == "stream" { // nothing leaves it, so the longest read tells each value's place
		for i, value := range strings.Split(strings.TrimSuffix(longestRead(p), ","), ",") {
			if value != "" {
				places[value] = int64(i)
			}
		}
	}
	groups := map[string]int{}
	ranks := map[string]int{}
	result := make([]*input, len(p.Primary))
	for i, o := range p.Primary {
		in := &input{Operation: o, args: o.Args, group: -1, place: -1, settled: int64(len(places))}
		result[i] = in
		value, writes := "", false
		if p.Model.wrote != nil {
			value, writes = p.Model.wrote(o)
		}
		if place, ok := places[value]; ok {
			in.place = place
		}
		if o.Known || seen[value] {
			continue
		}
		if writes {
			in.args = append([]string{}, o.Args...)
			in.args[len(in.args)-1] = unseen
		}
		alike := strings.Join(append([]string{o.Op}, in.args...), " ")
		group, ok := groups[alike]
		if !ok {
			if len(groups) == maxGroups {
				continue
			}
			group = len(groups)
			groups[alike] = group
		}
		in.group, in.rank = group, ranks[alike]
		ranks[alike]++
	}
	return result
}

func linearizability(p *Partition, timeout time.Duration) []Problem {
	end, seen := observations(p)
	operations := make([]porcupine.Operation, 0, len(p.Primary))
	for _, in := range inputs(p, seen) {
		operations = append(operations, porcupine.Operation{ClientId: in.Client, Input: in, Call: in.Call, Return: end[in.Operation]})
	}
	m := p.Model.porcupine()
	switch porcupine.CheckOperationsTimeout(m, operations, timeout) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return []Problem{{p.Key, "undecided", fmt.Sprintf("not decided in %s: %d operations, %d of unknown outcome", timeout, len(operations), unknown(p)), nil}}
	}
	return []Problem{{p.Key, "linearizability", fmt.Sprintf("no order of its %d operations explains their results", len(operations)), explain(m, operations, timeout)}}
}

func unknown(p *Partition) int {
	count := 0
	for _, o := range p.Primary {
		if !o.Known {
			count++
		}
	}
	return count
}

// explain shows how far the longest order got, and what could not follow.
func explain(m porcupine.Model, operations []porcupine.Operation, timeout time.Duration) []string {
	_, info := porcupine.CheckOperationsVerbose(m, operations, timeout)
	var longest []porcupine.Operation
	for _, order := range info.PartialLinearizationsOperations()[0] {
		if len(order) > len(longest) {
			longest = order
		}
	}
	placed := map[*Operation]bool{}
	for _, o := range longest {
		placed[o.Input.(*input).Operation] = true
	}
	detail := []string{fmt.Sprintf("the longest order explains %d operations, ending with", len(longest))}
	for i, o := range longest {
		if i >= len(longest)-6 {
			detail = append(detail, "  "+o.Input.(*input).String())
		}
	}
	detail = append(detail, "and none of these can follow:")
	shown := 0
	for _, o := range operations {
		if op := o.Input.(*input).Operation; !placed[op] && shown < 10 {
			shown++
			detail = append(detail, "  "+op.String())
		}
	}
	return detail
}
