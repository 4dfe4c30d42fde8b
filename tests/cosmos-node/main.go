package main

import (
	_ "github.com/cosmos/cosmos-sdk/baseapp"
	_ "github.com/cosmos/cosmos-sdk/store/streaming"
	_ "github.com/cosmos/cosmos-sdk/types/module"
	_ "github.com/cosmos/cosmos-sdk/x/authz/module"
	_ "github.com/cosmos/cosmos-sdk/x/distribution"
	_ "github.com/cosmos/cosmos-sdk/x/feegrant/module"
	_ "github.com/cosmos/cosmos-sdk/x/genutil"
	_ "github.com/cosmos/cosmos-sdk/x/mint"
	_ "github.com/cosmos/cosmos-sdk/x/slashing"
	_ "github.com/cosmos/cosmos-sdk/x/gov"
	_ "github.com/cosmos/cosmos-sdk/x/staking"
	_ "github.com/cosmos/cosmos-sdk/x/consensus"
	_ "github.com/cosmos/cosmos-sdk/x/auth"
	_ "github.com/cosmos/cosmos-sdk/x/bank"
	_ "github.com/cometbft/cometbft/node"
	_ "github.com/cosmos/gogoproto/proto"
	_ "cosmossdk.io/math"
	_ "github.com/cometbft/cometbft-db"
)

func main() {}
