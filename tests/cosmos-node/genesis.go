package main

import (
	"encoding/json"
	"fmt"
	"time"

	sdkmath "cosmossdk.io/math"
	"github.com/cometbft/cometbft/crypto/ed25519"
	tmtypes "github.com/cometbft/cometbft/types"

	"github.com/cosmos/cosmos-sdk/client/tx"
	cryptocodec "github.com/cosmos/cosmos-sdk/crypto/codec"
	sdksecp "github.com/cosmos/cosmos-sdk/crypto/keys/secp256k1"
	sdk "github.com/cosmos/cosmos-sdk/types"
	signingtypes "github.com/cosmos/cosmos-sdk/types/tx/signing"
	authsigning "github.com/cosmos/cosmos-sdk/x/auth/signing"
	authtypes "github.com/cosmos/cosmos-sdk/x/auth/types"
	banktypes "github.com/cosmos/cosmos-sdk/x/bank/types"
	genutiltypes "github.com/cosmos/cosmos-sdk/x/genutil/types"
	govtypes "github.com/cosmos/cosmos-sdk/x/gov/types"
	govv1 "github.com/cosmos/cosmos-sdk/x/gov/types/v1"
	slashingtypes "github.com/cosmos/cosmos-sdk/x/slashing/types"
	stakingtypes "github.com/cosmos/cosmos-sdk/x/staking/types"
)

const (
	chainID = "sluice-rec-1"
	// stakeDenom is the staking token, coinDenom a second, ordinary one.
	stakeDenom = "stake"
	coinDenom  = "coin"
	// maturity is the unbonding time: short, so that undelegations end, and
	// their queue entries are deleted, while the recording runs.
	maturity = 2 * time.Second
	// selfBond of the only signing validator dwarfs all other stake, so the
	// chain makes blocks whatever the workload does to the other validators.
	selfBond = 1_000_000_000_000
)

// Wallet is a key pair derived from the seed. The keys are public knowledge
// and must never hold anything of value.
type Wallet struct {
	Key  *sdksecp.PrivKey
	Addr sdk.AccAddress
}

// Val is the validator address that belongs to the wallet.
func (w Wallet) Val() sdk.ValAddress { return sdk.ValAddress(w.Addr) }

// newWallet derives the n-th wallet of a group of wallets.
func newWallet(seed int64, group string, n int) Wallet {
	key := sdksecp.GenPrivKeyFromSecret([]byte(fmt.Sprintf("%s/%d/%s/%d", chainID, seed, group, n)))
	return Wallet{Key: key, Addr: sdk.AccAddress(key.PubKey().Address())}
}

// newConsensusKey derives the n-th consensus key.
func newConsensusKey(seed int64, n int) ed25519.PrivKey {
	return ed25519.GenPrivKeyFromSecret([]byte(fmt.Sprintf("%s/%d/consensus/%d", chainID, seed, n)))
}

func coins(denom string, amount int64) sdk.Coins { return sdk.NewCoins(coin(denom, amount)) }

func coin(denom string, amount int64) sdk.Coin { return sdk.NewInt64Coin(denom, amount) }

// newGenesis builds the genesis document: wallets with two tokens each, one
// genesis transaction that makes wallets[0] the validator with consensus key
// number 0, and short periods everywhere.
func newGenesis(enc Encoding, seed int64, wallets []Wallet) (*tmtypes.GenesisDoc, error) {
	state := basics.DefaultGenesis(enc.Codec)

	var accounts authtypes.GenesisAccounts
	var balances []banktypes.Balance
	for i, w := range wallets {
		accounts = append(accounts, authtypes.NewBaseAccount(w.Addr, nil, uint64(i), 0))
		stake := int64(1_000_000_000)
		if i == 0 {
			stake += selfBond
		}
		balances = append(balances, banktypes.Balance{
			Address: w.Addr.String(),
			Coins:   sdk.NewCoins(coin(stakeDenom, stake), coin(coinDenom, 1_000_000_000+int64(i))),
		})
	}
	state[authtypes.ModuleName] = enc.Codec.MustMarshalJSON(
		authtypes.NewGenesisState(authtypes.DefaultParams(), accounts))
	state[banktypes.ModuleName] = enc.Codec.MustMarshalJSON(
		banktypes.NewGenesisState(banktypes.DefaultParams(), balances, nil, nil, nil))

	stakingParams := stakingtypes.DefaultParams()
	stakingParams.UnbondingTime = maturity
	stakingParams.HistoricalEntries = 10
	state[stakingtypes.ModuleName] = enc.Codec.MustMarshalJSON(
		stakingtypes.NewGenesisState(stakingParams, nil, nil))

	slashingParams := slashingtypes.DefaultParams()
	slashingParams.SignedBlocksWindow = 20
	slashingParams.DowntimeJailDuration = time.Second
	state[slashingtypes.ModuleName] = enc.Codec.MustMarshalJSON(
		slashingtypes.NewGenesisState(slashingParams, nil, nil))

	govState := govv1.DefaultGenesisState()
	govState.Params.MinDeposit = coins(stakeDenom, 1_000_000)
	voting, deposit := 2*time.Second, time.Second
	govState.Params.VotingPeriod, govState.Params.MaxDepositPeriod = &voting, &deposit
	state[govtypes.ModuleName] = enc.Codec.MustMarshalJSON(govState)

	genTx, err := newGenTx(enc, seed, wallets[0])
	if err != nil {
		return nil, err
	}
	state[genutiltypes.ModuleName] = enc.Codec.MustMarshalJSON(
		genutiltypes.NewGenesisState([]json.RawMessage{genTx}))

	appState, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	doc := &tmtypes.GenesisDoc{
		ChainID:         chainID,
		GenesisTime:     time.Now().UTC().Truncate(time.Millisecond),
		ConsensusParams: tmtypes.DefaultConsensusParams(),
		AppState:        appState,
	}
	return doc, doc.ValidateAndComplete()
}

// newGenTx returns the signed genesis transaction that creates the validator.
func newGenTx(enc Encoding, seed int64, operator Wallet) (json.RawMessage, error) {
	msg, err := newValidatorMsg(operator, newConsensusKey(seed, 0), selfBond, "recorder")
	if err != nil {
		return nil, err
	}
	txn, err := signTx(enc, operator, 0, 0, txOptions{gas: 300_000}, msg)
	if err != nil {
		return nil, err
	}
	return enc.Tx.TxJSONEncoder()(txn)
}

// newValidatorMsg returns a request to create a validator.
func newValidatorMsg(operator Wallet, key ed25519.PrivKey, bond int64, name string) (sdk.Msg, error) {
	pub, err := cryptocodec.FromTmPubKeyInterface(key.PubKey())
	if err != nil {
		return nil, err
	}
	return stakingtypes.NewMsgCreateValidator(operator.Val(), pub, coin(stakeDenom, bond),
		stakingtypes.Description{Moniker: name},
		stakingtypes.NewCommissionRates(sdk.NewDecWithPrec(5, 2), sdk.NewDecWithPrec(20, 2), sdk.NewDecWithPrec(5, 2)),
		sdkmath.OneInt())
}

// txOptions are the parts of a transaction other than its messages.
type txOptions struct {
	gas     uint64
	fee     sdk.Coins
	granter sdk.AccAddress // pays the fee, when set
	memo    string
}

// signTx builds a transaction and signs it with the wallet's key.
func signTx(enc Encoding, w Wallet, number, sequence uint64, opts txOptions, msgs ...sdk.Msg) (sdk.Tx, error) {
	const mode = signingtypes.SignMode_SIGN_MODE_DIRECT
	b := enc.Tx.NewTxBuilder()
	if err := b.SetMsgs(msgs...); err != nil {
		return nil, err
	}
	b.SetGasLimit(opts.gas)
	b.SetFeeAmount(opts.fee)
	b.SetFeeGranter(opts.granter)
	b.SetMemo(opts.memo)

	// The sign bytes cover the public key and the sequence, so a signature
	// without bytes has to be in place before the real one can be made.
	blank := signingtypes.SignatureV2{
		PubKey:   w.Key.PubKey(),
		Data:     &signingtypes.SingleSignatureData{SignMode: mode},
		Sequence: sequence,
	}
	if err := b.SetSignatures(blank); err != nil {
		return nil, err
	}
	signed, err := tx.SignWithPrivKey(mode, authsigning.SignerData{
		Address:       w.Addr.String(),
		ChainID:       chainID,
		AccountNumber: number,
		Sequence:      sequence,
		PubKey:        w.Key.PubKey(),
	}, b, w.Key, enc.Tx, sequence)
	if err != nil {
		return nil, err
	}
	if err := b.SetSignatures(signed); err != nil {
		return nil, err
	}
	return b.GetTx(), nil
}
