// The checker judges the histories of the fault tests: is each key's history linearizable, and did the
// replicas show committed data only, in order?
//
// usage: checker [-timeout 60s] HISTORY.jsonl
//
// Prints a verdict as JSON. Exit status 0: judged (whatever the verdict); 2: the history can't be read.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
)

// A Problem is one thing that is wrong with one key's history.
type Problem struct {
	Key     string   `json:"key"`
	Kind    string   `json:"kind"` // linearizability, identity, replica, undecided
	Message string   `json:"message"`
	Detail  []string `json:"detail,omitempty"`
}

// A Verdict is what the checker has to say.
type Verdict struct {
	Operations int       `json:"operations"`
	Unknown    int       `json:"unknown"`
	Replica    int       `json:"replica"`
	Partitions int       `json:"partitions"`
	Seconds    float64   `json:"seconds"`
	Problems   []Problem `json:"problems"`
}

func main() {
	timeout := flag.Duration("timeout", time.Minute, "longest time for one key's history; then it is undecided")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	file, err := os.Open(flag.Arg(0))
	if err != nil {
		fatal(err)
	}
	partitions, count, err := readHistory(file)
	if err != nil {
		fatal(err)
	}
	started := time.Now()
	verdict := Verdict{Operations: count, Partitions: len(partitions), Problems: []Problem{}}
	for _, partition := range partitions {
		verdict.Replica += len(partition.Replica)
		for _, o := range partition.Primary {
			if !o.Known {
				verdict.Unknown++
			}
		}
	}
	verdict.Problems = append(verdict.Problems, judgeAll(partitions, *timeout)...)
	verdict.Seconds = time.Since(started).Seconds()
	if err := json.NewEncoder(os.Stdout).Encode(verdict); err != nil {
		fatal(err)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "checker:", err)
	os.Exit(2)
}

func judgeAll(partitions []*Partition, timeout time.Duration) []Problem {
	var problems []Problem
	var lock sync.Mutex
	var workers sync.WaitGroup
	queue := make(chan *Partition)
	for i := 0; i < runtime.GOMAXPROCS(0); i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for partition := range queue {
				found := judge(partition, timeout)
				lock.Lock()
				problems = append(problems, found...)
				lock.Unlock()
			}
		}()
	}
	for _, partition := range partitions {
		queue <- partition
	}
	close(queue)
	workers.Wait()
	return problems
}
