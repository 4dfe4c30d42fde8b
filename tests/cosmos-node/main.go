// Command cosmos-node records what the file streamer of a real Cosmos SDK node
// writes, and checks and summarises such recordings. See README.md.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cometbft/cometbft/libs/log"
)

const usage = `usage:
  cosmos-node record --out DIR [--blocks N] [--seed N] [--restarts N] [--keys LIST] [...]
  cosmos-node inspect [--json FILE] DIR

"cosmos-node record --help" lists all flags.
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "cosmos-node:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return errors.New("a command is missing")
	}
	switch args[0] {
	case "record":
		return record(args[1:])
	case "inspect":
		return inspect(args[1:])
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	default:
		fmt.Fprint(os.Stderr, usage)
		return fmt.Errorf("unknown command %q", args[0])
	}
}

func record(args []string) error {
	fs := flag.NewFlagSet("record", flag.ContinueOnError)
	out := fs.String("out", "", "directory for the recording; must be empty or absent")
	blocks := fs.Int64("blocks", 300, "number of blocks")
	seed := fs.Int64("seed", 1, "seed of all keys and of the choice of transactions")
	restarts := fs.Int64("restarts", 4, "clean restarts of the node on the way, evenly spread")
	keys := fs.String("keys", "*", "stores to stream, separated by commas")
	interval := fs.Duration("interval", 60*time.Millisecond, "pause of the consensus between blocks")
	fsync := fs.Bool("fsync", true, "let the streamer sync every file")
	metadata := fs.Bool("metadata", true, "let the streamer write meta files")
	home := fs.String("home", "", "home of the node; default is a temporary directory that is removed at the end")
	level := fs.String("log", "error", "log level of the node: debug, info, error or none")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case *out == "":
		return errors.New("--out is required")
	case *blocks < 1:
		return errors.New("--blocks must be at least 1")
	case *restarts < 0 || *restarts >= *blocks:
		return errors.New("--restarts must be at least 0 and less than --blocks")
	case *interval < 0:
		return errors.New("--interval must not be negative")
	}
	allow, err := log.AllowLevel(*level)
	if err != nil {
		return fmt.Errorf("--log: %w", err)
	}
	dir, err := filepath.Abs(*out)
	if err != nil {
		return err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("--out: %s is not empty", *out)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--out: %w", err)
	}
	if *home == "" {
		if *home, err = os.MkdirTemp("", "cosmos-node-"); err != nil {
			return err
		}
		defer os.RemoveAll(*home)
	}

	enc := newEncoding()
	work := newWorkload(enc, *seed)
	doc, err := newGenesis(enc, *seed, work.wallets)
	if err != nil {
		return fmt.Errorf("genesis: %w", err)
	}
	s := Settings{
		home: *home, out: dir, keys: strings.Split(*keys, ","), fsync: *fsync, metadata: *metadata,
		seed: *seed, interval: *interval,
		logger: log.NewFilter(log.NewTMLogger(log.NewSyncWriter(os.Stderr)), allow),
	}
	var truth State
	segments := *restarts + 1
	for i := int64(1); i <= segments; i++ {
		var final func(*App) error
		if i == segments {
			final = func(app *App) error {
				h := newStateHasher()
				app.eachPair(h.add)
				truth = h.state()
				return nil
			}
		}
		last := *blocks * i / segments
		start := time.Now()
		if err := runSegment(s, doc, work, last, final); err != nil {
			return err
		}
		fmt.Printf("node stopped at height %d after %s\n", last, time.Since(start).Round(time.Millisecond))
	}
	if !*metadata {
		return nil
	}

	sum, err := inspectDir(dir)
	if err != nil {
		return fmt.Errorf("the recording is not as expected: %w", err)
	}
	printSummary(sum)
	if *keys == "*" {
		if sum.FinalState != truth {
			return fmt.Errorf("replaying the recording gives state %+v, the node has %+v", sum.FinalState, truth)
		}
		fmt.Println("replaying the recording gives exactly the final state of the node")
	}
	return nil
}

func inspect(args []string) error {
	fs := flag.NewFlagSet("inspect", flag.ContinueOnError)
	out := fs.String("json", "", "write the summary to this file as JSON")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return errors.New("inspect needs exactly one directory")
	}
	sum, err := inspectDir(fs.Arg(0))
	if err != nil {
		return err
	}
	printSummary(sum)
	if *out == "" {
		return nil
	}
	bz, err := json.MarshalIndent(sum, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*out, append(bz, '\n'), 0o644)
}

// printSummary writes a summary for people.
func printSummary(s *Summary) {
	fmt.Printf("chain %s, heights %d to %d, %d blocks; data %d bytes, meta %d bytes\n",
		s.ChainID, s.FirstHeight, s.LastHeight, s.Blocks, s.DataBytes, s.MetaBytes)
	fmt.Printf("changes %d, of these deletes %d, empty values %d; blocks without changes %d\n",
		s.Changes, s.Deletes, s.EmptyValueSets, s.BlocksWithoutChanges)
	fmt.Printf("keys not ascending %d, deletes of absent keys %d\n", s.KeysNotAscending, s.NoopDeletes)
	for _, name := range sortedKeys(s.Stores) {
		st := s.Stores[name]
		fmt.Printf("  %-14s changes %6d  deletes %5d  live keys %5d\n", name, st.Changes, st.Deletes, st.LiveKeys)
	}
	fmt.Printf("txs %d, failed %d, most in a block %d, blocks without txs %d, genesis txs %d\n",
		s.Txs, s.FailedTxs, s.MaxTxs, s.EmptyBlocks, s.GenesisTxs)
	for _, code := range sortedKeys(s.FailedByCode) {
		fmt.Printf("  failed with %-16s %d\n", code, s.FailedByCode[code])
	}
	fmt.Printf("tx entries in meta files %d, list restarts at %v\n", s.MetaTxs, s.Restarts)
	fmt.Printf("data sha256 %s\nfinal state %d pairs, sha256 %s\n", s.DataSHA256, s.FinalState.Pairs, s.FinalState.SHA256)
}
