package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/libs/log"
	"github.com/cometbft/cometbft/mempool"
	"github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"github.com/cometbft/cometbft/proxy"
	tmtypes "github.com/cometbft/cometbft/types"

	"github.com/cosmos/cosmos-sdk/client/flags"
	"github.com/cosmos/cosmos-sdk/store/streaming"
	sdk "github.com/cosmos/cosmos-sdk/types"
)

// Settings of one recording.
type Settings struct {
	home     string // node home: keys, block store, state
	out      string // directory of the file streamer
	keys     []string
	fsync    bool
	metadata bool
	seed     int64
	interval time.Duration // timeout_commit
	logger   log.Logger
}

// streamerOptions is what an operator would write into app.toml.
func (s Settings) streamerOptions() Options {
	return Options{
		flags.FlagHome:                            s.home,
		streaming.OptStoreStreamers:               []string{"file"},
		"streamers.file.keys":                     s.keys,
		streaming.OptStreamersFileWriteDir:        s.out,
		streaming.OptStreamersFilePrefix:          "",
		streaming.OptStreamersFileOutputMetadata:  s.metadata,
		streaming.OptStreamersFileStopNodeOnError: true,
		streaming.OptStreamersFileFsync:           s.fsync,
	}
}

// nodeConfig configures a lone validator that talks to nobody.
func (s Settings) nodeConfig() *config.Config {
	cfg := config.DefaultConfig().SetRoot(s.home)
	cfg.BlockSyncMode = false // there is no peer to sync from
	cfg.RPC.ListenAddress = ""
	cfg.P2P.ListenAddress = "tcp://127.0.0.1:0"
	cfg.P2P.PexReactor = false
	cfg.P2P.AddrBookStrict = false
	cfg.TxIndex.Indexer = "null"
	cfg.Consensus.TimeoutCommit = s.interval
	cfg.Consensus.TimeoutPropose = time.Second
	cfg.Consensus.TimeoutPrevote = 200 * time.Millisecond
	cfg.Consensus.TimeoutPrecommit = 200 * time.Millisecond
	return cfg
}

// runSegment starts the node, lets it commit every block up to last, and stops
// it again. With a non-nil inspect the final application is handed over before
// its database closes.
func runSegment(s Settings, doc *tmtypes.GenesisDoc, w *Workload, last int64, inspect func(*App) error) error {
	cfg := s.nodeConfig()
	config.EnsureRoot(s.home)

	db, err := dbm.NewDB("application", dbm.GoLevelDBBackend, filepath.Join(s.home, "data"))
	if err != nil {
		return fmt.Errorf("open the application database: %w", err)
	}
	defer db.Close()

	app, err := newApp(s.logger.With("module", "app"), db, w.enc, s.streamerOptions())
	if err != nil {
		return err
	}
	w.app = app

	// The proposer puts the planned transactions in front of those from the
	// mempool. That is the only way to get a transaction with, say, a wrong
	// sequence into a block: the mempool would turn it away.
	app.SetPrepareProposal(func(ctx sdk.Context, req abci.RequestPrepareProposal) abci.ResponsePrepareProposal {
		if req.Height > last {
			return abci.ResponsePrepareProposal{}
		}
		return abci.ResponsePrepareProposal{Txs: append(append([][]byte{}, w.Plan(ctx, req.Height)...), req.Txs...)}
	})
	// Refusing every proposal beyond the last height ends the chain exactly
	// there, with the node idle and all files of the last block complete.
	app.SetProcessProposal(func(_ sdk.Context, req abci.RequestProcessProposal) abci.ResponseProcessProposal {
		if req.Height > last {
			return abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_REJECT}
		}
		return abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_ACCEPT}
	})
	if err := app.load(); err != nil {
		return err
	}
	w.segFirst, w.segLast = app.LastBlockHeight()+1, last

	// The state file remembers the last vote, so it is made once and then
	// loaded. The keys come from the seed.
	valKey, valState := cfg.PrivValidatorKeyFile(), cfg.PrivValidatorStateFile()
	validator := privval.NewFilePV(newConsensusKey(s.seed, 0), valKey, valState)
	if w.segFirst == 1 {
		validator.Save()
	} else {
		validator = privval.LoadFilePV(valKey, valState)
	}
	nodeKey := &p2p.NodeKey{PrivKey: ed25519.GenPrivKeyFromSecret([]byte(fmt.Sprintf("%s/%d/node", chainID, s.seed)))}

	n, err := node.NewNode(cfg, validator, nodeKey, proxy.NewLocalClientCreator(app),
		func() (*tmtypes.GenesisDoc, error) { return doc, nil },
		node.DefaultDBProvider, node.DefaultMetricsProvider(cfg.Instrumentation), s.logger)
	if err != nil {
		return fmt.Errorf("make the node: %w", err)
	}
	sub, err := n.EventBus().Subscribe(context.Background(), appName, tmtypes.EventQueryNewBlock, 1000)
	if err != nil {
		return fmt.Errorf("subscribe to blocks: %w", err)
	}
	if err := n.Start(); err != nil {
		return fmt.Errorf("start the node: %w", err)
	}
	runErr := follow(n, sub, w, last)
	if err := n.Stop(); err != nil && runErr == nil {
		runErr = fmt.Errorf("stop the node: %w", err)
	}
	n.Wait()
	switch {
	case runErr != nil:
		return runErr
	case w.err != nil:
		return fmt.Errorf("workload: %w", w.err)
	case app.LastBlockHeight() != last:
		return fmt.Errorf("node stopped at height %d, not %d", app.LastBlockHeight(), last)
	case inspect != nil:
		return inspect(app)
	}
	return nil
}

// follow waits for the last block. On the way it submits a transaction to the
// mempool now and then, as a client would.
func follow(n *node.Node, sub tmtypes.Subscription, w *Workload, last int64) error {
	for {
		select {
		case msg := <-sub.Out():
			height := msg.Data().(tmtypes.EventDataNewBlock).Block.Height
			if height >= last {
				return nil
			}
			if height%50 != 40 || last-height < 10 {
				continue
			}
			tx, err := w.mempoolTx(w.submitted)
			if err != nil {
				return err
			}
			if err := n.Mempool().CheckTx(tx, nil, mempool.TxInfo{}); err != nil {
				return fmt.Errorf("submit to the mempool: %w", err)
			}
			w.submitted++
		case <-sub.Cancelled():
			return fmt.Errorf("block subscription ended: %w", sub.Err())
		case <-time.After(time.Minute):
			return fmt.Errorf("no block for a minute")
		}
	}
}
