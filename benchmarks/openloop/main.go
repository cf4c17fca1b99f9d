// Command openloop loads one server and measures the latency of each command.
//
// It reads a Spec (JSON) from standard input and writes a Result (JSON) to standard output.
//
// A flow with a rate is an open loop: command i is due at start + i/rate, whatever the server does, and its latency
// runs from that moment, so that waiting behind slower commands counts. A flow without a rate is a closed loop: each
// connection sends its next pipeline when the last one is answered.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"os"
	"runtime"
	"sort"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Spec is what to do.
type Spec struct {
	Seconds float64 // measured
	Warmup  float64 // seconds before that, not measured
	Drain   float64 // seconds to wait for the last answers; it is an error if they don't come
	Flows   []Flow
}

// Flow is one kind of load, on connections of its own.
type Flow struct {
	Name        string
	Address     string
	Command     string // "set" or "get"
	Rate        float64
	Connections int
	Pipeline    int // closed loop: commands sent at once
	// WaitAOF ends each pipeline with WAITAOF 1 1 0: it is done when that is answered.
	WaitAOF bool
	Prefix  string
	Keys    int
	Size    int // of a value, in bytes
}

// Result is what came of it.
type Result struct {
	Flows []FlowResult
}

// FlowResult is what came of one flow. Latencies are in milliseconds.
type FlowResult struct {
	Name       string
	Commands   int     // answered, among those due (open loop) or sent (closed loop) in the measured time
	Rate       float64 // commands answered per second, until the last of them was answered
	Errors     int
	FirstError string
	Nils       int
	P50        float64 `json:"p50"`
	P99        float64 `json:"p99"`
	P999       float64 `json:"p999"`
	Max        float64 `json:"max"`
	Mean       float64 `json:"mean"`
	LateP50    float64 // how late the generator itself sent: the part of the latency that is not the server's
	LateP99    float64
}

type sent struct {
	due   int64 // ns since the clock's start
	count int32 // commands
	wait  bool  // a WAITAOF follows
}

var started = time.Now()

func now() int64 { return int64(time.Since(started)) }

// meter collects what one connection saw.
type meter struct {
	flow       *Flow
	from, to   int64 // measured: due in here
	latencies  []int64
	late       []int64
	commands   int
	errors     int
	firstError string
	nils       int
	last       int64
}

func (m *meter) measured(due int64) bool { return due >= m.from && due < m.to }

func (m *meter) done(s sent, at int64) {
	if m.measured(s.due) {
		m.latencies = append(m.latencies, at-s.due)
		m.commands += int(s.count)
		m.last = at
	}
}

// conn is one connection.
type conn struct {
	net.Conn
	reader *bufio.Reader
	queue  chan sent // open loop: what is in flight
	out    []byte
	meter  *meter
	random *rand.Rand
	value  []byte
}

// inFlight is how many commands a connection of an open loop may have in flight before its sender is held up.
const inFlight = 1 << 18

func dial(flow *Flow, from, to int64, seed int64) (*conn, error) {
	c, err := net.Dial("tcp", flow.Address)
	if err != nil {
		return nil, err
	}
	value := make([]byte, flow.Size)
	for i := range value {
		value[i] = 'x'
	}
	return &conn{
		Conn:   c,
		reader: bufio.NewReaderSize(c, 64<<10),
		meter:  &meter{flow: flow, from: from, to: to},
		random: rand.New(rand.NewSource(seed)),
		value:  value,
	}, nil
}

func (c *conn) bulk(data []byte) {
	c.out = append(c.out, '$')
	c.out = strconv.AppendInt(c.out, int64(len(data)), 10)
	c.out = append(c.out, "\r\n"...)
	c.out = append(c.out, data...)
	c.out = append(c.out, "\r\n"...)
}

// add puts one command into the buffer.
func (c *conn) add() {
	var keyBuffer [64]byte
	key := append(keyBuffer[:0], c.meter.flow.Prefix...)
	key = append(key, "000000000000"...)
	for i, n := len(key)-1, c.random.Intn(c.meter.flow.Keys); n > 0; i, n = i-1, n/10 {
		key[i] = byte('0' + n%10)
	}
	if c.meter.flow.Command == "get" {
		c.out = append(c.out, "*2\r\n$3\r\nGET\r\n"...)
		c.bulk(key)
		return
	}
	c.out = append(c.out, "*3\r\n$3\r\nSET\r\n"...)
	c.bulk(key)
	c.bulk(c.value)
}

func (c *conn) flush() error {
	_, err := c.Write(c.out)
	c.out = c.out[:0]
	return err
}

var errServer = errors.New("error reply")

// reply reads one reply: a line, a bulk string, or an array of integers. It returns the integers.
func (c *conn) reply() ([]int64, error) {
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 {
		return nil, fmt.Errorf("not a reply: %q", line)
	}
	text := line[1 : len(line)-2]
	switch line[0] {
	case '+':
		return nil, nil
	case ':':
		number, err := strconv.ParseInt(string(text), 10, 64)
		return []int64{number}, err
	case '-':
		c.meter.errors++
		if c.meter.firstError == "" {
			c.meter.firstError = string(text)
		}
		return nil, errServer
	case '$', '*':
		size, err := strconv.Atoi(string(text))
		if err != nil {
			return nil, err
		}
		if size < 0 {
			c.meter.nils++
			return nil, nil
		}
		if line[0] == '$' {
			_, err = c.reader.Discard(size + 2)
			return nil, err
		}
		var all []int64
		for ; size > 0; size-- {
			each, err := c.reply()
			if err != nil {
				return nil, err
			}
			all = append(all, each...)
		}
		return all, nil
	}
	return nil, fmt.Errorf("not a reply: %q", line)
}

// answer reads the replies to what was sent at once.
func (c *conn) answer(s sent) error {
	failed := false
	for i := int32(0); i < s.count; i++ {
		if _, err := c.reply(); err == errServer {
			failed = true
		} else if err != nil {
			return err
		}
	}
	if s.wait {
		copies, err := c.reply()
		if err != nil && err != errServer {
			return err
		}
		if err == nil && (len(copies) != 2 || copies[0] < 1 || copies[1] < 1) {
			failed = true
			c.meter.errors++
			c.meter.firstError = fmt.Sprintf("WAITAOF answered %v", copies)
		}
	}
	if !failed {
		c.meter.done(s, now())
	}
	return nil
}

func (c *conn) closedLoop() error {
	flow := c.meter.flow
	for {
		at := now()
		if at >= c.meter.to {
			return nil
		}
		for i := 0; i < flow.Pipeline; i++ {
			c.add()
		}
		if flow.WaitAOF {
			c.out = append(c.out, "*4\r\n$7\r\nWAITAOF\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n0\r\n"...)
		}
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.answer(sent{at, int32(flow.Pipeline), flow.WaitAOF}); err != nil {
			return err
		}
	}
}

// pace sends commands of one open-loop flow when they are due, round robin; what is due at once on one connection
// leaves in one write.
func pace(flow *Flow, conns []*conn, begin, end int64) error {
	runtime.LockOSThread()
	const prSetTimerslack = 29
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetTimerslack, 1000, 0)
	interval := 1e9 / flow.Rate
	for next := 0; ; {
		at := now()
		first := next
		for {
			due := begin + int64(float64(next)*interval)
			if due > at || due >= end {
				break
			}
			c := conns[next%len(conns)]
			c.add()
			c.queue <- sent{due, 1, false}
			if c.meter.measured(due) {
				c.meter.late = append(c.meter.late, at-due)
			}
			next++
		}
		for i := first; i < next && i < first+len(conns); i++ {
			if err := conns[i%len(conns)].flush(); err != nil {
				return err
			}
		}
		due := begin + int64(float64(next)*interval)
		if due >= end {
			return nil
		}
		if wait := due - now(); wait > 0 {
			pause := syscall.NsecToTimespec(wait)
			syscall.Nanosleep(&pause, nil)
		}
	}
}

func run(spec Spec) (Result, error) {
	var result Result
	begin := now() + int64(20*time.Millisecond)
	from := begin + int64(spec.Warmup*1e9)
	to := from + int64(spec.Seconds*1e9)
	all := make([][]*conn, len(spec.Flows))
	for i := range spec.Flows {
		for j := 0; j < spec.Flows[i].Connections; j++ {
			c, err := dial(&spec.Flows[i], from, to, int64(i*100000+j))
			if err != nil {
				return result, err
			}
			all[i] = append(all[i], c)
		}
	}
	// Dialing may have taken long; the times are set anew.
	shift := now() + int64(20*time.Millisecond) - begin
	begin, from, to = begin+shift, from+shift, to+shift
	var senders, receivers sync.WaitGroup
	fatal := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	for i := range spec.Flows {
		flow := &spec.Flows[i]
		for _, c := range all[i] {
			c.meter.from, c.meter.to = from, to
			c := c
			if flow.Rate == 0 {
				senders.Add(1)
				go func() {
					defer senders.Done()
					time.Sleep(time.Duration(begin - now()))
					fatal(c.closedLoop())
				}()
				continue
			}
			c.queue = make(chan sent, inFlight)
			receivers.Add(1)
			go func() {
				defer receivers.Done()
				for s := range c.queue {
					fatal(c.answer(s))
				}
			}()
		}
		if flow.Rate > 0 {
			senders.Add(1)
			conns := all[i]
			go func() {
				defer senders.Done()
				time.Sleep(time.Duration(begin - now()))
				fatal(pace(flow, conns, begin, to))
				for _, c := range conns {
					close(c.queue)
				}
			}()
		}
	}
	senders.Wait()
	drained := make(chan struct{})
	go func() { receivers.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(time.Duration(spec.Drain * 1e9)):
		return result, fmt.Errorf("commands remain unanswered after %v s", spec.Drain)
	}
	for i := range spec.Flows {
		result.Flows = append(result.Flows, sum(&spec.Flows[i], all[i], from))
	}
	return result, nil
}

func sum(flow *Flow, conns []*conn, from int64) FlowResult {
	result := FlowResult{Name: flow.Name}
	var latencies, late []int64
	var last int64
	for _, c := range conns {
		m := c.meter
		latencies = append(latencies, m.latencies...)
		late = append(late, m.late...)
		result.Commands += m.commands
		result.Errors += m.errors
		result.Nils += m.nils
		if result.FirstError == "" {
			result.FirstError = m.firstError
		}
		if m.last > last {
			last = m.last
		}
	}
	if last > from {
		result.Rate = float64(result.Commands) / (float64(last-from) / 1e9)
	}
	total := 0.0
	for _, each := range latencies {
		total += float64(each) / 1e6
	}
	if len(latencies) > 0 {
		result.Mean = total / float64(len(latencies))
	}
	result.P50, result.P99, result.P999, result.Max = at(latencies, .5), at(latencies, .99), at(latencies, .999), at(latencies, 1)
	result.LateP50, result.LateP99 = at(late, .5), at(late, .99)
	return result
}

// at returns a quantile, in milliseconds.
func at(all []int64, quantile float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	index := int(quantile*float64(len(all))+0.9999999) - 1
	if index < 0 {
		index = 0
	}
	return float64(all[index]) / 1e6
}

func main() {
	log.SetFlags(0)
	var spec Spec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		log.Fatal(err)
	}
	result, err := run(spec)
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil && err != io.EOF {
		log.Fatal(err)
	}
}
