package main

import (
	"fmt"
	"math/rand"
	"time"

	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/x/authz"
	banktypes "github.com/cosmos/cosmos-sdk/x/bank/types"
	distrtypes "github.com/cosmos/cosmos-sdk/x/distribution/types"
	"github.com/cosmos/cosmos-sdk/x/feegrant"
	govv1 "github.com/cosmos/cosmos-sdk/x/gov/types/v1"
	slashingtypes "github.com/cosmos/cosmos-sdk/x/slashing/types"
	stakingtypes "github.com/cosmos/cosmos-sdk/x/staking/types"
)

const (
	// genesisWallets have coins from the start. Wallet 0 runs the validator,
	// wallet 1 belongs to the mempool client, 2 and 3 to silent validators.
	genesisWallets = 80
	mempoolWallet  = 1
	firstSilent    = 2
	silentCount    = 2
	firstUser      = 4
)

// Workload decides which transactions go into which block. The choice depends
// on the seed and the height only; it reads the committed state for account
// numbers, sequences and balances.
type Workload struct {
	app     *App // replaced at every restart of the node
	enc     Encoding
	seed    int64
	wallets []Wallet

	// first and last height of the running segment (the time between two
	// starts of the node).
	segFirst, segLast int64

	planned  map[int64][][]byte
	rng      *rand.Rand
	ctx      sdk.Context
	step     int              // next entry of the script
	seqs     map[string]int64 // sequences used in the block being planned
	fresh    []freshWallet    // funded, not yet emptied
	freshNum int
	proposal uint64
	authz    []pair // open grants, oldest first
	fees     []pair
	err      error

	submitted uint64 // by the mempool client
}

type freshWallet struct {
	Wallet
	funded int64
}

type pair struct {
	granter, grantee Wallet
	height           int64
}

// newWorkload derives the wallets from the seed.
func newWorkload(enc Encoding, seed int64) *Workload {
	w := &Workload{enc: enc, seed: seed, planned: make(map[int64][][]byte)}
	for i := 0; i < genesisWallets; i++ {
		w.wallets = append(w.wallets, newWallet(seed, "genesis", i))
	}
	return w
}

// Plan returns the transactions for the block at height. Consensus may ask
// again for the same height; the answer does not change.
func (w *Workload) Plan(ctx sdk.Context, height int64) [][]byte {
	if txs, ok := w.planned[height]; ok {
		return txs
	}
	w.ctx = ctx
	w.rng = rand.New(rand.NewSource(w.seed*1_000_003 + height))
	w.seqs = make(map[string]int64)
	txs := [][]byte{}
	if height == 2 {
		txs = append(txs, w.silentValidators()...)
	}
	for n := w.size(height); n > 0; n-- {
		txs = append(txs, w.next(height))
	}
	w.planned[height] = txs
	return txs
}

// size is the number of script entries for a block. The file streamer repeats
// every transaction in all later meta files until the node restarts. So a
// segment starts quiet, with most blocks empty, and ends busy: that keeps the
// recording small without keeping the transactions few.
func (w *Workload) size(height int64) int {
	if height < 2 {
		return 0
	}
	length := w.segLast - w.segFirst + 1
	busy := length / 10
	left := w.segLast - height
	switch {
	case left >= busy && (height-w.segFirst)%20 == 14:
		return 1
	case left >= busy || left%3 == 0 && left > 0:
		return 0
	case left == 1:
		return 24 // a block much larger than the others
	default:
		return 2 + w.rng.Intn(7)
	}
}

// script is the order in which the kinds of transactions come round. Entries
// that need an earlier one (revoke needs grant) follow it.
var script = []func(*Workload, int64) []byte{
	(*Workload).fundFresh,
	(*Workload).delegate,
	(*Workload).send,
	(*Workload).undelegate,
	(*Workload).failFunds,
	(*Workload).grantAuthz,
	(*Workload).multiSend,
	(*Workload).grantFees,
	(*Workload).emptyFresh,
	(*Workload).failSequence,
	(*Workload).redelegate,
	(*Workload).execAuthz,
	(*Workload).propose,
	(*Workload).send,
	(*Workload).useFees,
	(*Workload).failGas,
	(*Workload).vote,
	(*Workload).delegate,
	(*Workload).revokeAuthz,
	(*Workload).undelegateAll,
	(*Workload).failDecode,
	(*Workload).execAuthz,
	(*Workload).revokeFees,
	(*Workload).rewards,
	(*Workload).twoMessages,
	(*Workload).fundFresh,
	(*Workload).failSignature,
	(*Workload).unjail,
	(*Workload).emptyFresh,
}

func (w *Workload) next(height int64) []byte {
	fn := script[w.step%len(script)]
	w.step++
	return fn(w, height)
}

// --- kinds of transactions ---

func (w *Workload) send(int64) []byte {
	from, to := w.user(), w.user()
	return w.tx(from, txOptions{fee: coins(stakeDenom, 500)},
		banktypes.NewMsgSend(from.Addr, to.Addr, coins(coinDenom, 1+w.rng.Int63n(10_000))))
}

func (w *Workload) multiSend(int64) []byte {
	from := w.user()
	each := coins(coinDenom, 10+w.rng.Int63n(90))
	var outs []banktypes.Output
	sum := sdk.NewCoins()
	for i := 0; i < 5; i++ {
		outs = append(outs, banktypes.NewOutput(w.user().Addr, each))
		sum = sum.Add(each...)
	}
	return w.tx(from, txOptions{}, banktypes.NewMsgMultiSend(
		[]banktypes.Input{banktypes.NewInput(from.Addr, sum)}, outs))
}

func (w *Workload) twoMessages(int64) []byte {
	from := w.user()
	return w.tx(from, txOptions{memo: "two messages"},
		banktypes.NewMsgSend(from.Addr, w.user().Addr, coins(coinDenom, 7)),
		banktypes.NewMsgSend(from.Addr, w.user().Addr, coins(stakeDenom, 11)))
}

// fundFresh creates an account by sending coins to a new address.
func (w *Workload) fundFresh(height int64) []byte {
	from := w.user()
	to := newWallet(w.seed, "fresh", w.freshNum)
	w.freshNum++
	w.fresh = append(w.fresh, freshWallet{Wallet: to, funded: height})
	return w.tx(from, txOptions{}, banktypes.NewMsgSend(from.Addr, to.Addr,
		sdk.NewCoins(coin(stakeDenom, 5_000), coin(coinDenom, 5_000))))
}

// emptyFresh sends all coins of such an account away: bank deletes the
// balances that reach zero.
func (w *Workload) emptyFresh(height int64) []byte {
	if len(w.fresh) == 0 || w.fresh[0].funded >= height {
		return w.send(height)
	}
	from := w.fresh[0]
	w.fresh = w.fresh[1:]
	all := w.app.Bank.GetAllBalances(w.ctx, from.Addr)
	if all.IsZero() { // the funding transaction failed
		return w.send(height)
	}
	return w.tx(from.Wallet, txOptions{}, banktypes.NewMsgSend(from.Addr, w.user().Addr, all))
}

func (w *Workload) delegate(int64) []byte {
	from := w.user()
	return w.tx(from, txOptions{},
		stakingtypes.NewMsgDelegate(from.Addr, w.validator().Val(), coin(stakeDenom, 10_000+w.rng.Int63n(10_000))))
}

func (w *Workload) undelegate(height int64) []byte {
	d, ok := w.delegation()
	if !ok {
		return w.delegate(height)
	}
	return w.tx(d.owner, txOptions{},
		stakingtypes.NewMsgUndelegate(d.owner.Addr, d.validator, coin(stakeDenom, 1+d.tokens/3)))
}

// undelegateAll removes the delegation itself as well.
func (w *Workload) undelegateAll(height int64) []byte {
	d, ok := w.delegation()
	if !ok {
		return w.delegate(height)
	}
	return w.tx(d.owner, txOptions{},
		stakingtypes.NewMsgUndelegate(d.owner.Addr, d.validator, coin(stakeDenom, d.tokens)))
}

func (w *Workload) redelegate(height int64) []byte {
	d, ok := w.delegation()
	if !ok {
		return w.delegate(height)
	}
	target := w.wallets[0].Val()
	if d.validator.Equals(target) {
		target = w.wallets[firstSilent].Val()
	}
	return w.tx(d.owner, txOptions{gas: 500_000},
		stakingtypes.NewMsgBeginRedelegate(d.owner.Addr, d.validator, target, coin(stakeDenom, 1+d.tokens/2)))
}

func (w *Workload) rewards(height int64) []byte {
	d, ok := w.delegation()
	if !ok {
		return w.delegate(height)
	}
	return w.tx(d.owner, txOptions{}, distrtypes.NewMsgWithdrawDelegatorReward(d.owner.Addr, d.validator))
}

func (w *Workload) grantAuthz(height int64) []byte {
	p := w.pair(height)
	w.authz = append(w.authz, p)
	end := w.ctx.BlockTime().Add(time.Hour)
	msg, err := authz.NewMsgGrant(p.granter.Addr, p.grantee.Addr,
		banktypes.NewSendAuthorization(coins(coinDenom, 100), nil), &end)
	w.check(err)
	return w.tx(p.granter, txOptions{}, msg)
}

func (w *Workload) execAuthz(height int64) []byte {
	if len(w.authz) == 0 { // a grant that does not exist: the message fails
		w.authz = append(w.authz, w.pair(height))
		defer func() { w.authz = w.authz[:0] }()
	}
	p := w.authz[0]
	msg := authz.NewMsgExec(p.grantee.Addr, []sdk.Msg{
		banktypes.NewMsgSend(p.granter.Addr, p.grantee.Addr, coins(coinDenom, 3))})
	return w.tx(p.grantee, txOptions{}, &msg)
}

func (w *Workload) revokeAuthz(height int64) []byte {
	if len(w.authz) == 0 {
		return w.grantAuthz(height)
	}
	p := w.authz[0]
	w.authz = w.authz[1:]
	msg := authz.NewMsgRevoke(p.granter.Addr, p.grantee.Addr, sdk.MsgTypeURL(&banktypes.MsgSend{}))
	return w.tx(p.granter, txOptions{}, &msg)
}

func (w *Workload) grantFees(height int64) []byte {
	p := w.pair(height)
	w.fees = append(w.fees, p)
	end := w.ctx.BlockTime().Add(time.Hour)
	msg, err := feegrant.NewMsgGrantAllowance(
		&feegrant.BasicAllowance{SpendLimit: coins(stakeDenom, 1_000), Expiration: &end}, p.granter.Addr, p.grantee.Addr)
	w.check(err)
	return w.tx(p.granter, txOptions{}, msg)
}

// useFees lets the granter pay. Using up the allowance deletes it.
func (w *Workload) useFees(height int64) []byte {
	if len(w.fees) == 0 || w.fees[0].height >= height {
		return w.send(height)
	}
	p := w.fees[0]
	fee := int64(400)
	if w.rng.Intn(2) == 0 {
		fee = 1_000
		w.fees = w.fees[1:]
	}
	return w.tx(p.grantee, txOptions{fee: coins(stakeDenom, fee), granter: p.granter.Addr},
		banktypes.NewMsgSend(p.grantee.Addr, w.user().Addr, coins(coinDenom, 2)))
}

func (w *Workload) revokeFees(height int64) []byte {
	if len(w.fees) == 0 {
		return w.grantFees(height)
	}
	p := w.fees[0]
	w.fees = w.fees[1:]
	msg := feegrant.NewMsgRevokeAllowance(p.granter.Addr, p.grantee.Addr)
	return w.tx(p.granter, txOptions{}, &msg)
}

// propose opens a proposal without content. Its deposit and votes are deleted
// when the voting period ends.
func (w *Workload) propose(int64) []byte {
	from := w.user()
	w.proposal++
	msg, err := govv1.NewMsgSubmitProposal(nil, coins(stakeDenom, 1_000_000), from.Addr.String(),
		fmt.Sprintf("recording %d", w.proposal), "title", "summary")
	w.check(err)
	return w.tx(from, txOptions{}, msg)
}

func (w *Workload) vote(height int64) []byte {
	if w.proposal == 0 {
		return w.send(height)
	}
	from := w.user()
	return w.tx(from, txOptions{}, govv1.NewMsgVote(from.Addr, w.proposal, govv1.OptionYes, ""))
}

// unjail brings a silent validator back; it fails if that one is not jailed.
func (w *Workload) unjail(int64) []byte {
	from := w.wallets[firstSilent+w.rng.Intn(silentCount)]
	return w.tx(from, txOptions{}, slashingtypes.NewMsgUnjail(from.Val()))
}

// silentValidators joins validators that never sign: they miss blocks, get
// slashed and jailed, and change the validator set.
func (w *Workload) silentValidators() [][]byte {
	var txs [][]byte
	for i := 0; i < silentCount; i++ {
		from := w.wallets[firstSilent+i]
		msg, err := newValidatorMsg(from, newConsensusKey(w.seed, 1+i), 2_000_000+int64(i), fmt.Sprintf("silent-%d", i))
		w.check(err)
		txs = append(txs, w.tx(from, txOptions{gas: 500_000}, msg))
	}
	return txs
}

// failFunds passes all checks of the transaction itself; the message fails, so
// fee and sequence are written and nothing else.
func (w *Workload) failFunds(int64) []byte {
	from := w.user()
	return w.tx(from, txOptions{fee: coins(stakeDenom, 300)},
		banktypes.NewMsgSend(from.Addr, w.user().Addr, coins(coinDenom, 1_000_000_000_000)))
}

// failGas runs out of gas, half of the time in the message and half of the
// time before the sequence is increased.
func (w *Workload) failGas(int64) []byte {
	from := w.user()
	gas := uint64(62_000)
	if w.rng.Intn(2) == 0 {
		gas = 5_000
		defer func() { w.seqs[from.Addr.String()]-- }()
	}
	return w.tx(from, txOptions{gas: gas, fee: coins(stakeDenom, 200)},
		banktypes.NewMsgSend(from.Addr, w.user().Addr, coins(coinDenom, 5)))
}

// failSequence is signed with a sequence from the future.
func (w *Workload) failSequence(int64) []byte {
	from := w.user()
	id := from.Addr.String()
	w.seqs[id] += 5
	defer func() { w.seqs[id] -= 6 }()
	return w.tx(from, txOptions{}, banktypes.NewMsgSend(from.Addr, w.user().Addr, coins(coinDenom, 5)))
}

// failSignature has one bit of the signature flipped.
func (w *Workload) failSignature(int64) []byte {
	from := w.user()
	bz := w.tx(from, txOptions{}, banktypes.NewMsgSend(from.Addr, w.user().Addr, coins(coinDenom, 5)))
	w.seqs[from.Addr.String()]--
	bz[len(bz)-1] ^= 1 // the signature is the last field
	return bz
}

// failDecode is not a transaction at all.
func (w *Workload) failDecode(int64) []byte {
	bz := make([]byte, 24)
	w.rng.Read(bz)
	return bz
}

// --- helpers ---

// user picks a wallet of an ordinary user.
func (w *Workload) user() Wallet {
	return w.wallets[firstUser+w.rng.Intn(len(w.wallets)-firstUser)]
}

// pair picks two different users.
func (w *Workload) pair(height int64) pair {
	p := pair{w.user(), w.user(), height}
	for p.granter.Addr.Equals(p.grantee.Addr) {
		p.grantee = w.user()
	}
	return p
}

// validator picks the wallet of a validator.
func (w *Workload) validator() Wallet {
	if w.rng.Intn(2) == 0 {
		return w.wallets[0]
	}
	return w.wallets[firstSilent+w.rng.Intn(silentCount)]
}

type delegation struct {
	owner     Wallet
	validator sdk.ValAddress
	tokens    int64
}

// delegation picks a committed delegation of a user.
func (w *Workload) delegation() (delegation, bool) {
	var found []delegation
	for _, owner := range w.wallets[firstUser:] {
		for _, d := range w.app.Staking.GetAllDelegatorDelegations(w.ctx, owner.Addr) {
			val, ok := w.app.Staking.GetValidator(w.ctx, d.GetValidatorAddr())
			if !ok {
				continue
			}
			tokens := val.TokensFromShares(d.Shares).TruncateInt64()
			if tokens > 3 {
				found = append(found, delegation{owner, d.GetValidatorAddr(), tokens})
			}
		}
	}
	if len(found) == 0 {
		return delegation{}, false
	}
	return found[w.rng.Intn(len(found))], true
}

// tx signs with the sequence the sender has at this point of the block.
func (w *Workload) tx(from Wallet, opts txOptions, msgs ...sdk.Msg) []byte {
	if opts.gas == 0 {
		opts.gas = 250_000
	}
	acc := w.app.Account.GetAccount(w.ctx, from.Addr)
	if acc == nil {
		w.check(fmt.Errorf("account %s does not exist", from.Addr))
		return []byte{0}
	}
	id := from.Addr.String()
	seq := acc.GetSequence() + uint64(w.seqs[id])
	w.seqs[id]++
	txn, err := signTx(w.enc, from, acc.GetAccountNumber(), seq, opts, msgs...)
	w.check(err)
	if err != nil {
		return []byte{0}
	}
	bz, err := w.enc.Tx.TxEncoder()(txn)
	w.check(err)
	return bz
}

// mempoolTx returns the n-th transaction of the mempool client.
func (w *Workload) mempoolTx(n uint64) ([]byte, error) {
	from := w.wallets[mempoolWallet]
	txn, err := signTx(w.enc, from, mempoolWallet, n, txOptions{gas: 200_000, memo: "by mempool"},
		banktypes.NewMsgSend(from.Addr, w.wallets[firstUser].Addr, coins(coinDenom, 1)))
	if err != nil {
		return nil, err
	}
	return w.enc.Tx.TxEncoder()(txn)
}

// check keeps the first error; consensus callbacks can not return one.
func (w *Workload) check(err error) {
	if err != nil && w.err == nil {
		w.err = err
	}
}
