package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"

	tmtypes "github.com/cometbft/cometbft/types"

	storetypes "github.com/cosmos/cosmos-sdk/store/types"
)

// Summary describes a recording. It is computed from the recorded files alone.
type Summary struct {
	ChainID     string `json:"chain_id"`
	SDK         string `json:"cosmos_sdk"`
	CometBFT    string `json:"cometbft"`
	FirstHeight int64  `json:"first_height"`
	LastHeight  int64  `json:"last_height"`
	Blocks      int    `json:"blocks"`
	DataBytes   int64  `json:"data_bytes"`
	MetaBytes   int64  `json:"meta_bytes"`
	// DataSHA256 is over all data files, headers included, in height order.
	DataSHA256 string `json:"data_sha256"`

	Changes int                      `json:"changes"`
	Deletes int                      `json:"deletes"`
	Stores  map[string]*StoreSummary `json:"stores"`
	// BlocksWithoutChanges counts data files of exactly eight zero bytes.
	BlocksWithoutChanges int `json:"blocks_without_changes"`
	// EmptyValueSets counts sets whose value is absent.
	EmptyValueSets int `json:"empty_value_sets"`
	// KeysNotAscending counts pairs whose key is not above the one before it
	// in the same block and store.
	KeysNotAscending int `json:"keys_not_ascending"`
	// NoopDeletes counts deletes of keys that were not there.
	NoopDeletes int `json:"noop_deletes"`

	// The counts of transactions are what the blocks really held, after the
	// repetitions in the meta files have been removed.
	Txs          int            `json:"txs"`
	FailedTxs    int            `json:"failed_txs"`
	FailedByCode map[string]int `json:"failed_by_code"`
	EmptyBlocks  int            `json:"blocks_without_txs"`
	MaxTxs       int            `json:"max_txs_in_block"`
	GenesisTxs   int            `json:"genesis_txs"`
	// MetaTxs is the number of list entries in all meta files together.
	MetaTxs int `json:"meta_tx_entries"`
	// Restarts are the heights at which the list of a meta file starts anew.
	Restarts []int64   `json:"restarts"`
	TxBlocks []TxBlock `json:"blocks_with_txs"`

	FinalState State `json:"final_state"`
}

// StoreSummary counts the pairs of one store.
type StoreSummary struct {
	Changes  int `json:"changes"`
	Deletes  int `json:"deletes"`
	LiveKeys int `json:"live_keys"`
}

// TxBlock is a block with transactions.
type TxBlock struct {
	Height int64 `json:"height"`
	Txs    int   `json:"txs"`
	Failed int   `json:"failed"`
	InMeta int   `json:"in_meta"`
}

// State identifies the content of all stores. The hash is over every pair in
// order of store name and key; each of store name, key and value is preceded by
// its length as a big-endian 32-bit number.
type State struct {
	Pairs  int    `json:"pairs"`
	SHA256 string `json:"sha256"`
}

// stateHasher computes a State from pairs given in order.
type stateHasher struct {
	pairs int
	sum   hash.Hash
}

func newStateHasher() *stateHasher { return &stateHasher{sum: sha256.New()} }

func (h *stateHasher) add(store string, key, value []byte) {
	for _, part := range [][]byte{[]byte(store), key, value} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(part)))
		h.sum.Write(n[:])
		h.sum.Write(part)
	}
	h.pairs++
}

func (h *stateHasher) state() State {
	return State{Pairs: h.pairs, SHA256: hex.EncodeToString(h.sum.Sum(nil))}
}

// inspectDir reads a directory of the file streamer and checks it: names,
// length headers, framing, order of stores, contiguous heights, the hash of the
// transactions of each block and the chain of application hashes.
func inspectDir(dir string) (*Summary, error) {
	heights, err := listHeights(dir)
	if err != nil {
		return nil, err
	}
	s := &Summary{
		SDK:          moduleVersion("github.com/cosmos/cosmos-sdk"),
		CometBFT:     moduleVersion("github.com/cometbft/cometbft"),
		FirstHeight:  heights[0],
		LastHeight:   heights[len(heights)-1],
		Blocks:       len(heights),
		Stores:       make(map[string]*StoreSummary),
		FailedByCode: make(map[string]int),
		Restarts:     []int64{},
	}
	if want := s.LastHeight - s.FirstHeight + 1; want != int64(len(heights)) {
		return nil, fmt.Errorf("%d blocks between heights %d and %d: some are missing", len(heights), s.FirstHeight, s.LastHeight)
	}

	live := make(map[string]map[string][]byte)
	files := sha256.New()
	var before []*storetypes.BlockMetadata_DeliverTx
	var appHash []byte
	for _, height := range heights {
		name := filepath.Join(dir, fmt.Sprintf("block-%d-data", height))
		raw, body, err := readFramed(name)
		if err != nil {
			return nil, err
		}
		files.Write(raw)
		s.DataBytes += int64(len(raw))
		if err := s.addData(body, live); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}

		name = filepath.Join(dir, fmt.Sprintf("block-%d-meta", height))
		raw, body, err = readFramed(name)
		if err != nil {
			return nil, err
		}
		s.MetaBytes += int64(len(raw))
		var meta storetypes.BlockMetadata
		if err := meta.Unmarshal(body); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := s.addMeta(height, &meta, before, appHash); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		before, appHash = meta.DeliverTxs, meta.ResponseCommit.Data
	}
	s.DataSHA256 = hex.EncodeToString(files.Sum(nil))

	h := newStateHasher()
	for _, store := range sortedKeys(live) {
		for _, key := range sortedKeys(live[store]) {
			h.add(store, []byte(key), live[store][key])
		}
		s.Stores[store].LiveKeys = len(live[store])
	}
	s.FinalState = h.state()
	return s, nil
}

// addData counts the pairs of one data file and applies them to live.
func (s *Summary) addData(body []byte, live map[string]map[string][]byte) error {
	if len(body) == 0 {
		s.BlocksWithoutChanges++
	}
	store, key := "", []byte(nil)
	for at := 0; at < len(body); {
		size, n := binary.Uvarint(body[at:])
		if n <= 0 || size > uint64(len(body)-at-n) {
			return fmt.Errorf("bad length of the pair at offset %d", 8+at)
		}
		message := body[at+n : at+n+int(size)]
		var kv storetypes.StoreKVPair
		if err := kv.Unmarshal(message); err != nil {
			return fmt.Errorf("pair at offset %d: %w", 8+at, err)
		}
		if again, err := kv.Marshal(); err != nil || !bytes.Equal(again, message) {
			return fmt.Errorf("pair at offset %d is not in canonical form", 8+at)
		}
		switch {
		case kv.StoreKey < store:
			return fmt.Errorf("store %q after %q at offset %d", kv.StoreKey, store, 8+at)
		case kv.StoreKey == store && bytes.Compare(kv.Key, key) <= 0:
			s.KeysNotAscending++
		}
		store, key = kv.StoreKey, kv.Key

		count := s.Stores[store]
		if count == nil {
			count = &StoreSummary{}
			s.Stores[store] = count
			live[store] = make(map[string][]byte)
		}
		s.Changes++
		count.Changes++
		if kv.Delete {
			s.Deletes++
			count.Deletes++
			if _, ok := live[store][string(kv.Key)]; !ok {
				s.NoopDeletes++
			}
			delete(live[store], string(kv.Key))
		} else {
			if len(kv.Value) == 0 {
				s.EmptyValueSets++
			}
			live[store][string(kv.Key)] = kv.Value
		}
		at += n + int(size)
	}
	return nil
}

// addMeta counts the transactions of one meta file. The streamer never clears
// its list, so the file repeats all transactions since the node started; before
// is the list of the previous file.
func (s *Summary) addMeta(height int64, meta *storetypes.BlockMetadata,
	before []*storetypes.BlockMetadata_DeliverTx, appHash []byte,
) error {
	if meta.RequestBeginBlock == nil || meta.ResponseBeginBlock == nil || meta.RequestEndBlock == nil ||
		meta.ResponseEndBlock == nil || meta.ResponseCommit == nil {
		return fmt.Errorf("a part of the metadata is missing")
	}
	header := meta.RequestBeginBlock.Header
	if header.Height != height || meta.RequestEndBlock.Height != height {
		return fmt.Errorf("heights inside are %d and %d", header.Height, meta.RequestEndBlock.Height)
	}
	if appHash != nil && !bytes.Equal(header.AppHash, appHash) {
		return fmt.Errorf("the header does not have the application hash of the block before")
	}
	s.ChainID = header.ChainID

	all := meta.DeliverTxs
	s.MetaTxs += len(all)
	own := all
	if len(before) > 0 {
		if startsWith(all, before) {
			own = all[len(before):]
		} else {
			s.Restarts = append(s.Restarts, height)
		}
	}
	// Genesis transactions are delivered before the first block. They are in
	// the list but not in the block, so the hash tells them apart.
	genesis := 0
	for !bytes.Equal(dataHash(own), header.DataHash) {
		if height != s.FirstHeight || len(own) == 0 {
			return fmt.Errorf("the transactions do not have the hash in the header")
		}
		own = own[1:]
		genesis++
	}
	s.GenesisTxs += genesis

	if len(own) == 0 {
		s.EmptyBlocks++
		return nil
	}
	block := TxBlock{Height: height, Txs: len(own), InMeta: len(all)}
	for _, tx := range own {
		if res := tx.Response; res.Code != 0 {
			block.Failed++
			s.FailedByCode[fmt.Sprintf("%s/%d", res.Codespace, res.Code)]++
		}
	}
	s.TxBlocks = append(s.TxBlocks, block)
	s.Txs += block.Txs
	s.FailedTxs += block.Failed
	if block.Txs > s.MaxTxs {
		s.MaxTxs = block.Txs
	}
	return nil
}

// dataHash is the hash of a block's transactions as in the block header.
func dataHash(list []*storetypes.BlockMetadata_DeliverTx) []byte {
	txs := make(tmtypes.Txs, len(list))
	for i, tx := range list {
		txs[i] = tx.Request.Tx
	}
	return txs.Hash()
}

// startsWith tells whether list begins with all transactions of prefix.
func startsWith(list, prefix []*storetypes.BlockMetadata_DeliverTx) bool {
	if len(list) < len(prefix) {
		return false
	}
	for i := range prefix {
		a, errA := list[i].Marshal()
		b, errB := prefix[i].Marshal()
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			return false
		}
	}
	return true
}

// readFramed reads a file and checks its length header. It returns the whole
// file and the part after the header.
func readFramed(name string) (raw, body []byte, err error) {
	raw, err = os.ReadFile(name)
	if err != nil {
		return nil, nil, err
	}
	if len(raw) < 8 {
		return nil, nil, fmt.Errorf("%s: only %d bytes long", name, len(raw))
	}
	body = raw[8:]
	if size := binary.BigEndian.Uint64(raw); size != uint64(len(body)) {
		return nil, nil, fmt.Errorf("%s: header says %d bytes, there are %d", name, size, len(body))
	}
	return raw, body, nil
}

// listHeights returns the heights in dir in ascending order. Other files than
// those of the streamer are an error.
func listHeights(dir string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	kinds := make(map[int64]int)
	for _, entry := range entries {
		parts := strings.Split(entry.Name(), "-")
		if len(parts) != 3 || parts[0] != "block" || (parts[2] != "data" && parts[2] != "meta") {
			return nil, fmt.Errorf("%s: unexpected file %q", dir, entry.Name())
		}
		height, err := strconv.ParseInt(parts[1], 10, 64)
		if err != nil || height < 1 || strconv.FormatInt(height, 10) != parts[1] {
			return nil, fmt.Errorf("%s: bad height in the name %q", dir, entry.Name())
		}
		kinds[height]++
	}
	if len(kinds) == 0 {
		return nil, fmt.Errorf("%s: no blocks", dir)
	}
	heights := make([]int64, 0, len(kinds))
	for height, n := range kinds {
		if n != 2 {
			return nil, fmt.Errorf("%s: block %d lacks its data or its meta file", dir, height)
		}
		heights = append(heights, height)
	}
	sort.Slice(heights, func(i, j int) bool { return heights[i] < heights[j] })
	return heights, nil
}

// moduleVersion is the version of a dependency this program was built with.
func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == path {
				return dep.Version
			}
		}
	}
	return "unknown"
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
