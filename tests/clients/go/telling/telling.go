// Package telling is what the programs of all Go clients share: see python/telling.py.
package telling

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

const (
	Keys     = 200
	Rounds   = 10
	Patience = 60 * time.Second
	pace     = 3 * time.Millisecond
	settled  = 100
)

// Tags are hash tags in both shards.
var Tags = []string{"a", "b", "c", "d"}

// Hash tags of slots 3300 and 15495: one in each shard, so that a shard's pause is not hidden by the other.
var shards = []string{"{b}", "{a}"}

var phases = []string{"failover", "kill"}

// Script sets a key and reads it.
const Script = "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])"

// Endpoint is where the cluster is.
func Endpoint() string { return os.Args[len(os.Args)-2] }

// Prefix is what all keys begin with.
func Prefix() string { return os.Args[len(os.Args)-1] }

// Step is one thing that a client can do.
type Step struct {
	Name string
	Do   func(prefix string)
}

// Must ends the program if something went wrong.
func Must(err error) {
	if err != nil {
		panic(err)
	}
}

// Equal ends the program if two things differ.
func Equal(found, expected any) {
	if fmt.Sprint(found) != fmt.Sprint(expected) {
		panic(fmt.Sprintf("%v instead of %v", found, expected))
	}
}

func tell(what map[string]any) {
	text, err := json.Marshal(what)
	Must(err)
	fmt.Println(string(text))
}

// Run goes through all steps, writes during each phase, and looks for what has been acknowledged.
func Run(steps []Step, set func(key, value string) error, get func(key string) (string, error)) {
	for _, step := range steps {
		step.Do(Prefix())
		tell(map[string]any{"passed": step.Name})
	}
	input := bufio.NewReader(os.Stdin)
	acknowledged := map[string]string{}
	number := 0
	for _, phase := range phases {
		var done atomic.Bool
		go func() {
			if _, err := input.ReadString('\n'); err == nil {
				done.Store(true)
			}
		}()
		tell(map[string]any{"writing": phase})
		before, errors := len(acknowledged), map[string]int{}
		longest, last := time.Duration(0), []time.Time{time.Now(), time.Now()}
		for inARow := 0; inARow < settled; {
			number++
			shard := number % len(shards)
			if time.Since(last[shard]) > Patience {
				panic(fmt.Sprint("no write succeeds any more: ", errors))
			}
			key, value := fmt.Sprintf("%s:w:%s:%d", Prefix(), shards[shard], number), fmt.Sprint(number)
			if err := set(key, value); err != nil {
				errors[err.Error()]++
				inARow = 0
				time.Sleep(10 * time.Millisecond)
				continue
			}
			longest, last[shard] = max(longest, time.Since(last[shard])), time.Now()
			acknowledged[key] = value
			time.Sleep(pace)
			if done.Load() {
				inARow++
			}
		}
		tell(map[string]any{
			"written": phase, "acknowledged": len(acknowledged) - before,
			"errors": errors, "pause": longest.Seconds(),
		})
	}
	for key, value := range acknowledged {
		found, err := get(key)
		Must(err)
		Equal(found, value)
	}
	tell(map[string]any{"found": len(acknowledged)})
}
