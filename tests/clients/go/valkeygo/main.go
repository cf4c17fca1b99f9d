// valkey-go.
package main

import (
	"context"
	"fmt"

	"github.com/valkey-io/valkey-go"
	. "memorycluster.io/tests/clients/telling"
)

var background = context.Background()

func connect() valkey.Client {
	client, err := valkey.NewClient(valkey.ClientOption{InitAddress: []string{Endpoint()}})
	Must(err)
	return client
}

func receive(client valkey.Client, subscribe valkey.Completed, send func(n int)) {
	ctx, cancel := context.WithTimeout(background, Patience)
	defer cancel()
	subscribed, messages := make(chan bool, 1), make(chan string, Rounds)
	ctx = valkey.WithOnSubscriptionHook(ctx, func(valkey.PubSubSubscription) {
		select {
		case subscribed <- true:
		default:
		}
	})
	go func() {
		_ = client.Receive(ctx, subscribe, func(message valkey.PubSubMessage) { messages <- message.Message })
	}()
	<-subscribed
	for n := range Rounds {
		send(n)
	}
	for n := range Rounds {
		select {
		case message := <-messages:
			Equal(message, n)
		case <-ctx.Done():
			panic("messages are missing")
		}
	}
}

func main() {
	client := connect()
	defer client.Close()
	b := client.B
	do := func(command valkey.Completed) valkey.ValkeyResult { return client.Do(background, command) }
	must := func(result valkey.ValkeyResult) valkey.ValkeyResult {
		Must(result.Error())
		return result
	}
	text := func(result valkey.ValkeyResult) string {
		said, err := result.ToString()
		Must(err)
		return said
	}
	number := func(result valkey.ValkeyResult) int64 {
		said, err := result.ToInt64()
		Must(err)
		return said
	}
	steps := []Step{
		{"strings", func(p string) {
			for n := range Keys {
				must(do(b().Set().Key(fmt.Sprintf("%s:s:%d", p, n)).Value(fmt.Sprint(n)).Build()))
			}
			for n := range Keys {
				Equal(text(do(b().Get().Key(fmt.Sprintf("%s:s:%d", p, n)).Build())), n)
			}
		}},
		{"pipeline", func(p string) {
			var commands valkey.Commands
			for n := range Keys {
				key := fmt.Sprintf("%s:p:%d", p, n)
				commands = append(commands, b().Incrby().Key(key).Increment(int64(n)).Build(), b().Get().Key(key).Build())
			}
			said := client.DoMulti(background, commands...)
			for n := range Keys {
				Equal(number(said[2*n]), n)
				Equal(text(said[2*n+1]), n)
			}
		}},
		{"transaction", func(p string) {
			for _, tag := range Tags {
				key := fmt.Sprintf("{%s:%s}:t", p, tag)
				Must(client.Dedicated(func(one valkey.DedicatedClient) error {
					said := one.DoMulti(background, b().Multi().Build(),
						b().Set().Key(key+":1").Value("x").Build(),
						b().Incr().Key(key+":2").Build(),
						b().Get().Key(key+":1").Build(),
						b().Exec().Build())
					results, err := said[4].ToArray()
					Must(err)
					Equal(len(results), 3)
					last, err := results[2].ToString()
					Equal(last, "x")
					return err
				}))
			}
		}},
		{"script", func(p string) {
			for _, tag := range Tags {
				key := fmt.Sprintf("{%s:%s}:l", p, tag)
				Equal(text(do(b().Eval().Script(Script).Numkeys(1).Key(key).Arg("v").Build())), "v")
				Equal(text(do(b().Get().Key(key).Build())), "v")
			}
		}},
		{"publish", func(p string) {
			channel := p + ":c"
			// All through one node: order.
			Must(client.Dedicated(func(one valkey.DedicatedClient) error {
				receive(client, b().Subscribe().Channel(channel).Build(), func(n int) {
					must(one.Do(background, b().Publish().Channel(channel).Message(fmt.Sprint(n)).Build()))
				})
				return nil
			}))
		}},
		{"sharded_publish", func(p string) {
			for _, tag := range Tags {
				channel := fmt.Sprintf("%s:%s", p, tag)
				receive(client, b().Ssubscribe().Channel(channel).Build(), func(n int) {
					must(do(b().Spublish().Channel(channel).Message(fmt.Sprint(n)).Build()))
				})
			}
		}},
		{"blocking_pop", func(p string) {
			in, out := p+":in", p+":out"
			pop := func(one valkey.Client, key string) string {
				said, err := one.Do(background, b().Blpop().Key(key).Timeout(Patience.Seconds()).Build()).AsStrSlice()
				Must(err)
				return said[1]
			}
			go func() {
				other := connect()
				defer other.Close()
				for range Rounds {
					said := pop(other, in)
					must(other.Do(background, b().Rpush().Key(out).Element("re "+said).Build()))
				}
			}()
			for n := range Rounds {
				must(do(b().Rpush().Key(in).Element(fmt.Sprint(n)).Build()))
				Equal(pop(client, out), fmt.Sprintf("re %d", n))
			}
		}},
		{"stream", func(p string) {
			for _, tag := range Tags {
				key := fmt.Sprintf("%s:x:%s", p, tag)
				must(do(b().XgroupCreate().Key(key).Group("group").Id("0").Mkstream().Build()))
				var ids []string
				for n := range Rounds {
					ids = append(ids, text(do(b().Xadd().Key(key).Id("*").FieldValue().FieldValue("n", fmt.Sprint(n)).Build())))
				}
				read, err := do(b().Xreadgroup().Group("group", "me").Streams().Key(key).Id(">").Build()).AsXRead()
				Must(err)
				Equal(len(read[key]), Rounds)
				for n, entry := range read[key] {
					Equal(entry.ID, ids[n])
					Equal(entry.FieldValues["n"], n)
				}
				Equal(number(do(b().Xack().Key(key).Group("group").Id(ids...).Build())), Rounds)
				pending, err := do(b().Xpending().Key(key).Group("group").Build()).ToArray()
				Must(err)
				left, err := pending[0].ToInt64()
				Must(err)
				Equal(left, 0)
			}
		}},
		{"scan", func(p string) {
			all := map[string]bool{}
			for _, node := range client.Nodes() { // replicas too: they are asked for their own copy
				for cursor, more := uint64(0), true; more; more = cursor != 0 {
					page, err := node.Do(background, b().Scan().Cursor(cursor).Match(p+":s:*").Count(50).Build()).AsScanEntry()
					Must(err)
					for _, key := range page.Elements {
						all[key] = true
					}
					cursor = page.Cursor
				}
			}
			Equal(len(all), Keys)
		}},
	}
	Run(steps,
		func(key, value string) error { return do(b().Set().Key(key).Value(value).Build()).Error() },
		func(key string) (string, error) { return do(b().Get().Key(key).Build()).ToString() })
}
