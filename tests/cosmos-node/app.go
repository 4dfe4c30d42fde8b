package main

import (
	"encoding/json"
	"fmt"

	dbm "github.com/cometbft/cometbft-db"
	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/libs/log"
	tmproto "github.com/cometbft/cometbft/proto/tendermint/types"

	"github.com/cosmos/cosmos-sdk/baseapp"
	"github.com/cosmos/cosmos-sdk/client"
	"github.com/cosmos/cosmos-sdk/codec"
	codectypes "github.com/cosmos/cosmos-sdk/codec/types"
	"github.com/cosmos/cosmos-sdk/std"
	"github.com/cosmos/cosmos-sdk/store/streaming"
	storetypes "github.com/cosmos/cosmos-sdk/store/types"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	signingtypes "github.com/cosmos/cosmos-sdk/types/tx/signing"
	"github.com/cosmos/cosmos-sdk/x/auth"
	"github.com/cosmos/cosmos-sdk/x/auth/ante"
	authkeeper "github.com/cosmos/cosmos-sdk/x/auth/keeper"
	authtx "github.com/cosmos/cosmos-sdk/x/auth/tx"
	authtypes "github.com/cosmos/cosmos-sdk/x/auth/types"
	"github.com/cosmos/cosmos-sdk/x/authz"
	authzkeeper "github.com/cosmos/cosmos-sdk/x/authz/keeper"
	authzmodule "github.com/cosmos/cosmos-sdk/x/authz/module"
	"github.com/cosmos/cosmos-sdk/x/bank"
	bankkeeper "github.com/cosmos/cosmos-sdk/x/bank/keeper"
	banktypes "github.com/cosmos/cosmos-sdk/x/bank/types"
	"github.com/cosmos/cosmos-sdk/x/consensus"
	consensuskeeper "github.com/cosmos/cosmos-sdk/x/consensus/keeper"
	consensustypes "github.com/cosmos/cosmos-sdk/x/consensus/types"
	"github.com/cosmos/cosmos-sdk/x/distribution"
	distrkeeper "github.com/cosmos/cosmos-sdk/x/distribution/keeper"
	distrtypes "github.com/cosmos/cosmos-sdk/x/distribution/types"
	"github.com/cosmos/cosmos-sdk/x/feegrant"
	feegrantkeeper "github.com/cosmos/cosmos-sdk/x/feegrant/keeper"
	feegrantmodule "github.com/cosmos/cosmos-sdk/x/feegrant/module"
	"github.com/cosmos/cosmos-sdk/x/genutil"
	genutiltypes "github.com/cosmos/cosmos-sdk/x/genutil/types"
	"github.com/cosmos/cosmos-sdk/x/gov"
	govkeeper "github.com/cosmos/cosmos-sdk/x/gov/keeper"
	govtypes "github.com/cosmos/cosmos-sdk/x/gov/types"
	govv1beta1 "github.com/cosmos/cosmos-sdk/x/gov/types/v1beta1"
	"github.com/cosmos/cosmos-sdk/x/mint"
	mintkeeper "github.com/cosmos/cosmos-sdk/x/mint/keeper"
	minttypes "github.com/cosmos/cosmos-sdk/x/mint/types"
	"github.com/cosmos/cosmos-sdk/x/slashing"
	slashingkeeper "github.com/cosmos/cosmos-sdk/x/slashing/keeper"
	slashingtypes "github.com/cosmos/cosmos-sdk/x/slashing/types"
	"github.com/cosmos/cosmos-sdk/x/staking"
	stakingkeeper "github.com/cosmos/cosmos-sdk/x/staking/keeper"
	stakingtypes "github.com/cosmos/cosmos-sdk/x/staking/types"
)

// appName is the name the application reports over ABCI.
const appName = "sluice-recorder"

// storeNames lists every key-value store the application mounts.
var storeNames = []string{
	authtypes.StoreKey,
	authzkeeper.StoreKey,
	banktypes.StoreKey,
	consensustypes.StoreKey,
	distrtypes.StoreKey,
	feegrant.StoreKey,
	govtypes.StoreKey,
	minttypes.StoreKey,
	slashingtypes.StoreKey,
	stakingtypes.StoreKey,
}

// moduleAccounts maps module accounts to what they may do with coins.
var moduleAccounts = map[string][]string{
	authtypes.FeeCollectorName:     nil,
	distrtypes.ModuleName:          nil,
	govtypes.ModuleName:            {authtypes.Burner},
	minttypes.ModuleName:           {authtypes.Minter},
	stakingtypes.BondedPoolName:    {authtypes.Burner, authtypes.Staking},
	stakingtypes.NotBondedPoolName: {authtypes.Burner, authtypes.Staking},
}

// basics are the stateless halves of the modules: codec registration and
// default genesis.
var basics = module.NewBasicManager(
	auth.AppModuleBasic{},
	authzmodule.AppModuleBasic{},
	bank.AppModuleBasic{},
	consensus.AppModuleBasic{},
	distribution.AppModuleBasic{},
	feegrantmodule.AppModuleBasic{},
	genutil.NewAppModuleBasic(genutiltypes.DefaultMessageValidator),
	gov.NewAppModuleBasic(nil),
	mint.AppModuleBasic{},
	slashing.AppModuleBasic{},
	staking.AppModuleBasic{},
)

// Encoding bundles the codecs of the application.
type Encoding struct {
	Registry codectypes.InterfaceRegistry
	Codec    *codec.ProtoCodec
	Amino    *codec.LegacyAmino
	Tx       client.TxConfig
}

// newEncoding builds the codecs with the types of all modules registered.
func newEncoding() Encoding {
	registry := codectypes.NewInterfaceRegistry()
	amino := codec.NewLegacyAmino()
	std.RegisterInterfaces(registry)
	std.RegisterLegacyAminoCodec(amino)
	basics.RegisterInterfaces(registry)
	basics.RegisterLegacyAminoCodec(amino)
	cdc := codec.NewProtoCodec(registry)
	return Encoding{
		Registry: registry,
		Codec:    cdc,
		Amino:    amino,
		Tx:       authtx.NewTxConfig(cdc, []signingtypes.SignMode{signingtypes.SignMode_SIGN_MODE_DIRECT}),
	}
}

// Options is a flat set of node options, the form in which the SDK hands
// app.toml and command line flags to an application.
type Options map[string]interface{}

// Get returns the option named key, or nil.
func (o Options) Get(key string) interface{} { return o[key] }

// App is a small but complete Cosmos SDK application.
type App struct {
	*baseapp.BaseApp

	enc     Encoding
	keys    map[string]*storetypes.KVStoreKey
	modules *module.Manager

	Account  authkeeper.AccountKeeper
	Bank     bankkeeper.BaseKeeper
	Staking  *stakingkeeper.Keeper
	Slashing slashingkeeper.Keeper
}

// newApp wires the modules, attaches the streaming services asked for in opts
// and loads the latest committed state of db.
func newApp(logger log.Logger, db dbm.DB, enc Encoding, opts Options) (*App, error) {
	base := baseapp.NewBaseApp(appName, logger, db, enc.Tx.TxDecoder(), baseapp.SetChainID(chainID))
	base.SetInterfaceRegistry(enc.Registry)
	base.SetTxEncoder(enc.Tx.TxEncoder())
	base.SetVersion("1")

	app := &App{BaseApp: base, enc: enc, keys: sdk.NewKVStoreKeys(storeNames...)}

	// This is the whole of what it takes to switch the file streamer on.
	if _, _, err := streaming.LoadStreamingServices(base, opts, enc.Codec, logger, app.keys); err != nil {
		return nil, fmt.Errorf("load streaming services: %w", err)
	}

	authority := authtypes.NewModuleAddress(govtypes.ModuleName).String()
	blocked := make(map[string]bool, len(moduleAccounts))
	for name := range moduleAccounts {
		blocked[authtypes.NewModuleAddress(name).String()] = true
	}

	params := consensuskeeper.NewKeeper(enc.Codec, app.keys[consensustypes.StoreKey], authority)
	base.SetParamStore(&params)

	app.Account = authkeeper.NewAccountKeeper(enc.Codec, app.keys[authtypes.StoreKey],
		authtypes.ProtoBaseAccount, moduleAccounts, sdk.GetConfig().GetBech32AccountAddrPrefix(), authority)
	app.Bank = bankkeeper.NewBaseKeeper(enc.Codec, app.keys[banktypes.StoreKey], app.Account, blocked, authority)
	app.Staking = stakingkeeper.NewKeeper(enc.Codec, app.keys[stakingtypes.StoreKey], app.Account, app.Bank, authority)
	minter := mintkeeper.NewKeeper(enc.Codec, app.keys[minttypes.StoreKey], app.Staking, app.Account, app.Bank,
		authtypes.FeeCollectorName, authority)
	distr := distrkeeper.NewKeeper(enc.Codec, app.keys[distrtypes.StoreKey], app.Account, app.Bank, app.Staking,
		authtypes.FeeCollectorName, authority)
	app.Slashing = slashingkeeper.NewKeeper(enc.Codec, enc.Amino, app.keys[slashingtypes.StoreKey], app.Staking, authority)
	app.Staking.SetHooks(stakingtypes.NewMultiStakingHooks(distr.Hooks(), app.Slashing.Hooks()))
	grants := feegrantkeeper.NewKeeper(enc.Codec, app.keys[feegrant.StoreKey], app.Account)
	authzs := authzkeeper.NewKeeper(app.keys[authzkeeper.StoreKey], enc.Codec, base.MsgServiceRouter(), app.Account)
	governance := govkeeper.NewKeeper(enc.Codec, app.keys[govtypes.StoreKey], app.Account, app.Bank, app.Staking,
		base.MsgServiceRouter(), govtypes.DefaultConfig(), authority)
	governance.SetLegacyRouter(govv1beta1.NewRouter().AddRoute(govtypes.RouterKey, govv1beta1.ProposalHandler))

	// The last argument of most constructors is a parameter space of older
	// chains. It is used by migrations only; a new chain has none.
	app.modules = module.NewManager(
		auth.NewAppModule(enc.Codec, app.Account, nil, nil),
		authzmodule.NewAppModule(enc.Codec, authzs, app.Account, app.Bank, enc.Registry),
		bank.NewAppModule(enc.Codec, app.Bank, app.Account, nil),
		consensus.NewAppModule(enc.Codec, params),
		distribution.NewAppModule(enc.Codec, distr, app.Account, app.Bank, app.Staking, nil),
		feegrantmodule.NewAppModule(enc.Codec, app.Account, app.Bank, grants, enc.Registry),
		genutil.NewAppModule(app.Account, app.Staking, base.DeliverTx, enc.Tx),
		gov.NewAppModule(enc.Codec, governance, app.Account, app.Bank, nil),
		mint.NewAppModule(enc.Codec, minter, app.Account, nil, nil),
		slashing.NewAppModule(enc.Codec, app.Slashing, app.Account, app.Bank, app.Staking, nil),
		staking.NewAppModule(enc.Codec, app.Staking, app.Account, app.Bank, nil),
	)
	// Minting pays the fee collector before distribution empties it, and the
	// fees of the previous block are shared out before slashing looks at votes.
	app.modules.SetOrderBeginBlockers(minttypes.ModuleName, distrtypes.ModuleName, slashingtypes.ModuleName,
		stakingtypes.ModuleName, authtypes.ModuleName, banktypes.ModuleName, govtypes.ModuleName,
		genutiltypes.ModuleName, authz.ModuleName, feegrant.ModuleName, consensustypes.ModuleName)
	app.modules.SetOrderEndBlockers(govtypes.ModuleName, stakingtypes.ModuleName, authtypes.ModuleName,
		banktypes.ModuleName, distrtypes.ModuleName, slashingtypes.ModuleName, minttypes.ModuleName,
		genutiltypes.ModuleName, authz.ModuleName, feegrant.ModuleName, consensustypes.ModuleName)
	// Genesis transactions run last: they need every other module in place.
	app.modules.SetOrderInitGenesis(authtypes.ModuleName, banktypes.ModuleName, distrtypes.ModuleName,
		stakingtypes.ModuleName, slashingtypes.ModuleName, govtypes.ModuleName, minttypes.ModuleName,
		authz.ModuleName, feegrant.ModuleName, consensustypes.ModuleName, genutiltypes.ModuleName)
	app.modules.RegisterServices(module.NewConfigurator(enc.Codec, base.MsgServiceRouter(), base.GRPCQueryRouter()))

	checks, err := ante.NewAnteHandler(ante.HandlerOptions{
		AccountKeeper:   app.Account,
		BankKeeper:      app.Bank,
		FeegrantKeeper:  grants,
		SignModeHandler: enc.Tx.SignModeHandler(),
		SigGasConsumer:  ante.DefaultSigVerificationGasConsumer,
	})
	if err != nil {
		return nil, fmt.Errorf("build the ante handler: %w", err)
	}

	base.MountKVStores(app.keys)
	base.SetAnteHandler(checks)
	base.SetInitChainer(app.initChain)
	base.SetBeginBlocker(func(ctx sdk.Context, req abci.RequestBeginBlock) abci.ResponseBeginBlock {
		return app.modules.BeginBlock(ctx, req)
	})
	base.SetEndBlocker(func(ctx sdk.Context, req abci.RequestEndBlock) abci.ResponseEndBlock {
		return app.modules.EndBlock(ctx, req)
	})
	return app, nil
}

// load opens the latest committed state. Handlers can not be changed after it.
func (app *App) load() error {
	if err := app.LoadLatestVersion(); err != nil {
		return fmt.Errorf("load state: %w", err)
	}
	return nil
}

// initChain fills the stores from the application part of the genesis file.
func (app *App) initChain(ctx sdk.Context, req abci.RequestInitChain) abci.ResponseInitChain {
	var state map[string]json.RawMessage
	if err := json.Unmarshal(req.AppStateBytes, &state); err != nil {
		panic(fmt.Errorf("genesis state: %w", err))
	}
	return app.modules.InitGenesis(ctx, app.enc.Codec, state)
}

// committed returns a read-only view of the last committed state.
func (app *App) committed() sdk.Context {
	return sdk.NewContext(app.CommitMultiStore().CacheMultiStore(), tmproto.Header{ChainID: chainID}, false, app.Logger())
}

// eachPair calls fn for every pair of the committed state: stores in name
// order, keys ascending within a store.
func (app *App) eachPair(fn func(store string, key, value []byte)) {
	ctx := app.committed()
	for _, name := range storeNames {
		it := ctx.KVStore(app.keys[name]).Iterator(nil, nil)
		for ; it.Valid(); it.Next() {
			fn(name, it.Key(), it.Value())
		}
		it.Close()
	}
}
