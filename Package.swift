// swift-tools-version: 6.2
//
// The map of Salvor, as the build sees it. Every arrow between modules is written down here and nowhere
// else: `scripts/test` builds with undeclared imports as errors, and `ArchitectureTests` reads this file's
// description and refuses an arrow that points up. See docs/ARCHITECTURE.md.
import PackageDescription

// MARK: Outside packages

let packages: [Package.Dependency] = [
  .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
  .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
  .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
  .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
  .package(url: "https://github.com/apple/swift-nio-http2", from: "1.46.0"),
  .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
  .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
  .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
  .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
  .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
  .package(url: "https://github.com/swiftlang/swift-subprocess", from: "1.0.2"),
]

extension Target.Dependency {
  static let arguments = product(name: "ArgumentParser", package: "swift-argument-parser")
  static let asyncHTTPClient = product(name: "AsyncHTTPClient", package: "async-http-client")
  static let crypto = product(name: "Crypto", package: "swift-crypto")
  static let grdb = product(name: "GRDB", package: "GRDB.swift")
  static let hummingbird = product(name: "Hummingbird", package: "hummingbird")
  static let hummingbirdCore = product(name: "HummingbirdCore", package: "hummingbird")
  static let hummingbirdTLS = product(name: "HummingbirdTLS", package: "hummingbird")
  static let logging = product(name: "Logging", package: "swift-log")
  static let nioCore = product(name: "NIOCore", package: "swift-nio")
  static let nioHTTP1 = product(name: "NIOHTTP1", package: "swift-nio")
  static let nioHTTP2 = product(name: "NIOHTTP2", package: "swift-nio-http2")
  static let nioPosix = product(name: "NIOPosix", package: "swift-nio")
  static let nioSSL = product(name: "NIOSSL", package: "swift-nio-ssl")
  static let sqlite = product(name: "GRDBSQLite", package: "GRDB.swift")
  static let subprocess = product(name: "Subprocess", package: "swift-subprocess")
  static let yams = product(name: "Yams", package: "Yams")
}

// MARK: Settings

let strict: [SwiftSetting] = [
  .enableUpcomingFeature("ExistentialAny")
]

/// Modules whose inner loops touch every byte: optimised in debug builds too, or tests would crawl.
let hot: [SwiftSetting] = strict + [.unsafeFlags(["-O"], .when(configuration: .debug))]

func module(
  _ name: String, at path: String, _ dependencies: [Target.Dependency], settings: [SwiftSetting] = strict
) -> Target {
  .target(name: name, dependencies: dependencies, path: path, swiftSettings: settings)
}

func system(_ name: String, _ pkgConfig: String, apt: String) -> Target {
  .systemLibrary(name: name, path: "Sources/C/\(name)", pkgConfig: pkgConfig, providers: [.apt([apt])])
}

func tests(_ name: String, _ dependencies: [Target.Dependency], settings: [SwiftSetting] = strict) -> Target {
  .testTarget(name: name, dependencies: dependencies, path: "Tests/\(name)", swiftSettings: settings)
}

// MARK: C libraries, and the shims for calls Swift cannot make itself

let libraries: [Target] = [
  system("CZstd", "libzstd", apt: "libzstd-dev"),
  system("CLibcrypto", "libcrypto", apt: "libssl-dev"),
  system("CPQ", "libpq", apt: "libpq-dev"),
  system("CHiredis", "hiredis", apt: "libhiredis-dev"),
  system("CMariaDB", "libmariadb", apt: "libmariadb-dev"),
  system("CISAL", "libisal", apt: "libisal-dev"),
  system("CCrypt", "libcrypt", apt: "libcrypt-dev"),
  system("CRabbitMQ", "librabbitmq", apt: "librabbitmq-dev"),
  system("CFUSE", "fuse3", apt: "libfuse3-dev"),
  .target(name: "CWatchdog", path: "Sources/C/CWatchdog"),
  // Hashes every byte twice: optimised in debug builds too.
  .target(
    name: "CShim", path: "Sources/C/CShim", cSettings: [.unsafeFlags(["-O2"])],
    linkerSettings: [.linkedLibrary("crypto")]),
  // Network namespaces for the rig; no part of Salvor.
  .target(name: "CRig", path: "Sources/C/CRig"),
  .target(name: "CRigShim", path: "Sources/C/CRigShim"),
]

// MARK: Ground: values, time, chance, descriptors, requests. Knows nothing of backups.

let ground: [Target] = [
  module("Core", at: "Sources/Core", [.crypto]),
  module("IO", at: "Sources/IO", ["Core", "CShim", .subprocess], settings: hot),
  module("Telemetry", at: "Sources/Telemetry", ["Core", .logging]),
  module("Console", at: "Sources/Console", ["Core"]),
  module("Web", at: "Sources/Web", ["Core", .asyncHTTPClient, .nioCore, .nioHTTP1, .nioHTTP2, .nioPosix, .nioSSL]),
]

// MARK: Engine: the values everything is about, and the ports adapters fill.

let engine: [Target] = [
  module("Catalog", at: "Sources/Catalog", ["Core", .yams]),
  module(
    "Vault", at: "Sources/Vault", ["Core", "IO", "CISAL", "CZstd", "CLibcrypto", "CShim", .crypto], settings: hot),
  module("DriverKit", at: "Sources/DriverKit", ["Core", "CShim", "IO", .subprocess]),
  module("StateKit", at: "Sources/StateKit", ["Core", "Telemetry"]),
  // What a repository in a bucket and a bucket as a store have in common.
  module("S3Client", at: "Sources/S3Client", ["Core", "IO", "Web", .crypto]),
]

// MARK: Adapters: one folder each, one line here, one line in `Runtime/Registry.swift`.

let adapters: [Target] = [
  module("DriverFiles", at: "Adapters/Drivers/Files", ["Core", "IO", "DriverKit"]),
  module("DriverSQLite", at: "Adapters/Drivers/SQLite", ["Core", "IO", "DriverKit", .sqlite]),
  module(
    "DriverPostgreSQL", at: "Adapters/Drivers/PostgreSQL", ["Core", "IO", "DriverKit", "CISAL", "CPQ"],
    settings: hot),
  module(
    "DriverMariaDB", at: "Adapters/Drivers/MariaDB", ["Core", "IO", "DriverKit", "CMariaDB"],
    settings: hot),
  module("DriverExec", at: "Adapters/Drivers/Exec", ["Core", "IO", "DriverKit"]),
  module("DriverRedis", at: "Adapters/Drivers/Redis", ["Core", "IO", "DriverKit", "CHiredis"]),
  module("DriverEtcd", at: "Adapters/Drivers/Etcd", ["Core", "IO", "DriverKit", "Web"]),
  module("DriverBucket", at: "Adapters/Drivers/Bucket", ["Core", "IO", "DriverKit", "S3Client", "Web"]),
  module("DriverNATS", at: "Adapters/Drivers/NATS", ["Core", "IO", "DriverKit"], settings: hot),
  // Every byte of every message goes through it.
  module(
    "DriverRabbitMQ", at: "Adapters/Drivers/RabbitMQ", ["Core", "IO", "DriverKit", "CRabbitMQ", "Web"], settings: hot),
  module("ObjectStoreLocal", at: "Adapters/ObjectStores/Local", ["Core", "IO", "Vault"]),
  module("ObjectStoreMemory", at: "Adapters/ObjectStores/Memory", ["Core", "Vault"]),
  module("ObjectStoreFaulty", at: "Adapters/ObjectStores/Faulty", ["Core", "Vault"]),
  module("ObjectStoreOverlay", at: "Adapters/ObjectStores/Overlay", ["Core", "Vault"]),
  module("ObjectStoreRetry", at: "Adapters/ObjectStores/Retry", ["Core", "Vault"]),
  module("ObjectStoreLimits", at: "Adapters/ObjectStores/Limits", ["Core", "Vault"]),
  module("ObjectStoreMirror", at: "Adapters/ObjectStores/Mirror", ["Core", "Vault"]),
  module("ObjectStoreParity", at: "Adapters/ObjectStores/Parity", ["Core", "Vault"]),
  module("ObjectStoreCache", at: "Adapters/ObjectStores/Cache", ["Core", "IO", "Vault"]),
  module("ObjectStoreREST", at: "Adapters/ObjectStores/REST", ["Core", "IO", "Vault", "Web"]),
  module("ObjectStoreS3", at: "Adapters/ObjectStores/S3", ["Core", "IO", "S3Client", "Vault", "Web", .crypto]),
  module("JournalSQLite", at: "Adapters/Journals/SQLite", ["Core", "IO", "StateKit", .grdb]),
  module("JournalMemory", at: "Adapters/Journals/Memory", ["Core", "StateKit"]),
  module("LeaseEtcd", at: "Adapters/Leases/Etcd", ["Core", "StateKit", "Web"]),
  module("TrafficHAProxy", at: "Adapters/Traffic/HAProxy", ["Core", "IO", "DriverKit", "StateKit"]),
  module("TrafficNGINX", at: "Adapters/Traffic/NGINX", ["Core", "IO", "DriverKit", "StateKit", "Web"]),
  module("TrafficEnvoy", at: "Adapters/Traffic/Envoy", ["Core", "IO", "StateKit", "Web"]),
  module("TrafficExec", at: "Adapters/Traffic/Exec", ["Core", "DriverKit", "StateKit"]),
  module("TrafficPgBouncer", at: "Adapters/Traffic/PgBouncer", ["Core", "IO", "StateKit", "CPQ"]),
  module("LeasePostgreSQL", at: "Adapters/Leases/PostgreSQL", ["Core", "IO", "StateKit", "CPQ"]),
  module("WatchdogDevice", at: "Adapters/Watchdogs/Device", ["Core", "IO", "StateKit", "CWatchdog"]),
  module("MountFUSE", at: "Adapters/Mounts/FUSE", ["Core", "IO", "Vault", "CFUSE"]),
  module(
    "ServiceExec", at: "Adapters/Services/Exec", ["Core", "IO", "StateKit", .asyncHTTPClient, .nioCore, .nioHTTP1]),
]

// MARK: Acts: what Salvor does. Side by side; none imports another or an adapter.

let acts: [Target] = [
  module("Planning", at: "Sources/Planning", ["Core", "Catalog", "StateKit"]),
  module("Workflow", at: "Sources/Workflow", ["Core", "IO", "StateKit", "Telemetry"]),
  module("Validation", at: "Sources/Validation", ["Core", "Catalog", "DriverKit"]),
  module("Recovery", at: "Sources/Recovery", ["Core", "IO", "Telemetry", "Catalog", "Vault", "DriverKit", "StateKit"]),
  module("DriverContract", at: "Sources/DriverContract", ["Core", "IO", "CShim", "DriverKit"]),
  module("Governance", at: "Sources/Governance", ["Core", "IO", .crypto], settings: hot),
  module("Drills", at: "Sources/Drills", ["Core", "Catalog"]),
  module("Load", at: "Sources/Load", ["Core", "Catalog"]),
  module("Runbooks", at: "Sources/Runbooks", ["Core"]),
  // Every row that is compared goes through it: optimised in debug builds too.
  module("Reconciliation", at: "Sources/Reconciliation", ["Core", "IO", "Catalog", "DriverKit"], settings: hot),
  module("Replay", at: "Sources/Replay", ["Core", "DriverKit"]),
  // Looks at every byte of a copy.
  module("Redaction", at: "Sources/Redaction", ["Core", "Catalog", "DriverKit", .crypto], settings: hot),
  module("Synthetic", at: "Sources/Synthetic", ["Core", "DriverKit", .crypto]),
  module("Rollouts", at: "Sources/Rollouts", ["Core", "Catalog", "StateKit"]),
  module("Flags", at: "Sources/Flags", ["Core", "IO", "Web"]),
  // A simulation runs it a thousand times a second: optimised in debug builds too.
  module("Failover", at: "Sources/Failover", ["Core", "Catalog", "DriverKit", "StateKit"], settings: hot),
]

// MARK: Wiring and doors

let adapterNames: [Target.Dependency] = adapters.map { .init(stringLiteral: $0.name) }

let doors: [Target] = [
  module(
    "Runtime", at: "Sources/Runtime",
    [
      "Core", "CShim", "IO", "Telemetry", "Catalog", "Vault", "DriverKit", "StateKit", "Planning", "Workflow",
      "Validation",
      "Recovery", "Governance", "Drills", "Runbooks", "DriverContract", "Failover", "Flags", "Load", "Reconciliation",
      "Replay", "Redaction", "Rollouts", "Synthetic", "Web",
      .asyncHTTPClient, .crypto,
      .hummingbird,
      .hummingbirdCore, .logging, .nioCore, .nioSSL, .subprocess,
    ] + adapterNames),
  module(
    "Demo", at: "Sources/Demo",
    [
      "Core", "IO", "Telemetry", "Console", "Catalog", "Vault", "DriverKit", "StateKit", "Planning", "Validation",
      "Recovery", "Governance", "Runtime", "Workflow", .subprocess,
    ]),
  module(
    "RepositoryServer", at: "Sources/RepositoryServer",
    [
      "Core", "IO", "Vault", "ObjectStoreLocal", "CCrypt", .hummingbird, .hummingbirdCore, .hummingbirdTLS, .logging,
      .nioCore, .nioSSL,
    ]),
  module(
    "CLI", at: "Sources/CLI",
    [
      "Core", "IO", "Telemetry", "Console", "Catalog", "Vault", "StateKit", "Planning", "Workflow", "Validation",
      "Recovery", "Governance", "Drills", "Runbooks", "Failover", "Flags", "Load", "Reconciliation", "Replay",
      "Redaction",
      "Rollouts", "Synthetic", "Runtime", "Demo", "RepositoryServer",
      "DriverKit", "Web",
      .arguments, .logging, .yams,
    ]),
  .executableTarget(name: "salvor", dependencies: ["CLI"], path: "Sources/salvor", swiftSettings: strict),
  // Hosts, a switch between them, faults, load and a checker: what failovers are proved and measured on.
  module("FailoverRig", at: "Sources/FailoverRig", ["Core", "IO", "Catalog", "CPQ", "CRig"], settings: hot),
  .executableTarget(
    name: "salvor-torture",
    dependencies: [
      "Core", "IO", "Catalog", "DriverKit", "Vault", "Recovery", "Runtime", "Demo", "FailoverRig", .arguments,
    ],
    path: "Sources/Torture", swiftSettings: strict),
  // Carries one run out for `KillTests`, which kills it at random moments; not a product.
  .executableTarget(
    name: "salvor-torture-flow", dependencies: ["Core", "IO", "StateKit", "Workflow", "JournalSQLite"],
    path: "Sources/FlowTorture", swiftSettings: strict),
  .executableTarget(
    name: "salvor-bank",
    dependencies: [
      "Core", "IO", "DriverKit", "DriverNATS", "CPQ", "CHiredis", "CMariaDB", .sqlite, .hummingbird, .asyncHTTPClient,
      .nioCore, .nioHTTP1, .arguments, .logging,
    ],
    path: "Sources/Bank", swiftSettings: strict),
  module(
    "Benchmarks",
    at: "Benchmarks/Suite",
    [
      "Core", "IO", "CShim", "Console", "Catalog", "Vault", "DriverKit", "StateKit", "Planning", "Recovery",
      "Workflow", "Drills", "Runtime", "Demo", "DriverSQLite", "ObjectStoreLocal", "FailoverRig", .sqlite, .subprocess,
    ]),
  .executableTarget(
    name: "salvor-bench", dependencies: ["Core", "Console", "Benchmarks"], path: "Benchmarks/salvor-bench",
    swiftSettings: strict),
]

// MARK: Tests

let testTargets: [Target] = [
  // Support: temporary directories and live servers; and the contracts every store and journal must keep.
  module("TestSupport", at: "Tests/Support", ["Core", "IO", .subprocess]),
  module("ObjectStoreContract", at: "Tests/Contracts/ObjectStore", ["Core", "IO", "Vault", "TestSupport"]),
  module("JournalContract", at: "Tests/Contracts/Journal", ["Core", "StateKit", "TestSupport"]),
  module(
    "ReplicatedEngineContract", at: "Tests/Contracts/ReplicatedEngine", ["Core", "IO", "DriverKit", "TestSupport"]),
  module("LeaseContract", at: "Tests/Contracts/Lease", ["Core", "StateKit", "TestSupport"]),
  module("TrafficContract", at: "Tests/Contracts/Traffic", ["Core", "StateKit", "TestSupport"]),
  tests("CoreTests", ["Core", "IO"]),
  tests("CatalogTests", ["Core", "Catalog", "TestSupport"]),
  tests(
    "VaultTests",
    [
      "Core", "IO", "Vault", "ObjectStoreLocal", "ObjectStoreMemory", "ObjectStoreFaulty", "ObjectStoreMirror",
      "ObjectStoreParity", "ObjectStoreContract", "TestSupport",
    ], settings: hot),
  tests("TreeTests", ["Core", "CShim", "IO", "Vault", "ObjectStoreLocal", "TestSupport"], settings: hot),
  tests("DriverKitTests", ["Core", "IO", "DriverKit", "TestSupport"]),
  tests("DriverFilesTests", ["Core", "CShim", "IO", "DriverKit", "DriverFiles", "DriverContract", "TestSupport"]),
  tests("DriverSQLiteTests", ["Core", "IO", "DriverKit", "DriverSQLite", "DriverContract", "TestSupport", .sqlite]),
  tests(
    "DriverPostgreSQLTests", ["Core", "IO", "DriverKit", "DriverPostgreSQL", "DriverContract", "TestSupport", "CPQ"]),
  tests(
    "DriverRedisTests", ["Core", "IO", "DriverKit", "DriverRedis", "DriverContract", "TestSupport", "CHiredis"]),
  tests(
    "DriverBucketTests",
    ["Core", "IO", "DriverKit", "DriverBucket", "DriverContract", "S3Client", "TestSupport", "Web"]),
  tests("DriverEtcdTests", ["Core", "IO", "DriverKit", "DriverEtcd", "DriverContract", "TestSupport"]),
  tests("DriverNATSTests", ["Core", "IO", "DriverKit", "DriverNATS", "DriverContract", "TestSupport"]),
  tests(
    "DriverRabbitMQTests",
    ["Core", "IO", "DriverKit", "DriverRabbitMQ", "DriverContract", "TestSupport", "CRabbitMQ", "Web"]),
  tests(
    "DriverMariaDBTests",
    ["Core", "IO", "DriverKit", "DriverMariaDB", "DriverContract", "TestSupport", "CMariaDB", "salvor"]),
  tests(
    "DriverExecTests",
    ["Core", "IO", "DriverKit", "DriverExec", "DriverContract", "Runtime", "TestSupport", "salvor"]),
  tests("PlanningTests", ["Core", "Catalog", "StateKit", "Planning", "TestSupport"]),
  tests(
    "WorkflowTests",
    [
      "Core", "IO", "Telemetry", "StateKit", "Workflow", "JournalSQLite", "JournalMemory", "JournalContract",
      "ServiceExec", "TestSupport", "salvor-torture-flow", .grdb, .logging,
    ]),
  tests("RecoveryTests", ["Core", "DriverKit", "Recovery", "Vault"]),
  // Runs the built program beside live servers, and the archive of logs over stores that fail.
  tests(
    "FollowTests",
    [
      "Core", "IO", "DriverKit", "DriverRedis", "DriverSQLite", "Vault", "Recovery", "Runtime", "ObjectStoreMemory",
      "ObjectStoreFaulty", "TestSupport", "salvor",
    ]),
  tests(
    "BankTests",
    [
      "Core", "IO", "Catalog", "DriverKit", "Validation", "DriverFiles", "DriverSQLite", "DriverPostgreSQL",
      "DriverRedis", "DriverMariaDB", "DriverNATS", "CMariaDB", "TestSupport", .sqlite, .asyncHTTPClient, .nioCore,
      .nioHTTP1, "salvor-bank",
    ]),
  tests(
    "ValidationTests", ["Core", "IO", "Catalog", "DriverKit", "DriverSQLite", "Validation", "TestSupport", .sqlite]),
  tests(
    "DrillTests",
    [
      "Core", "Catalog", "Drills", "ObjectStoreMemory", "ObjectStoreOverlay", "ObjectStoreContract", "Vault",
      "TestSupport",
    ]),
  // Practises with the bank, in places of the drills' own.
  tests(
    "DrillRoomTests",
    [
      "Core", "IO", "Catalog", "Console", "Drills", "DriverKit", "Load", "Planning", "Recovery", "StateKit", "Runtime",
      "Demo", "TestSupport", "salvor", "salvor-bank",
    ]),
  // A server that does what the test says, measured.
  tests(
    "LoadTests",
    ["Core", "IO", "Catalog", "Load", "Runtime", "TestSupport", .nioCore, .nioHTTP1, .nioPosix]),
  // Releases tried on copies of live servers' backups, and copies compared.
  tests("CompatTests", ["Core", "IO", "Catalog", "DriverKit", "Validation", "Runtime", "TestSupport", "salvor"]),
  tests("RunbookTests", ["Core", "Runbooks", "TestSupport"]),
  // Types what a runbook says, word by word.
  tests(
    "RunbookFollowTests",
    ["Core", "IO", "Catalog", "Runbooks", "Runtime", "Demo", "TestSupport", "salvor", "salvor-bank"]),
  tests("ReconciliationTests", ["Core", "IO", "Catalog", "DriverKit", "Reconciliation", "Replay", "TestSupport"]),
  // Finds, corrects and replays with live servers, by the built program.
  tests(
    "ReconcileEngineTests",
    ["Core", "IO", "DriverKit", "DriverSQLite", "DriverRedis", "Runtime", "TestSupport", "salvor", .sqlite]),
  tests("RedactionTests", ["Core", "DriverKit", "Redaction", "Synthetic"], settings: hot),
  // Makes copies of live engines with the built program, and looks for what was planted in them.
  tests("RedactionEngineTests", ["Core", "IO", "Redaction", "TestSupport", "salvor"]),
  // Dumps of a live server by the built program, and what is brought back from them.
  tests("DumpTests", ["Core", "IO", "DriverKit", "DriverPostgreSQL", "TestSupport", "salvor"]),
  tests("GovernanceTests", ["Core", "IO", "Governance", "TestSupport"]),
  // Measures the built program, as a shell would start it.
  tests("BenchmarkTests", ["Core", "IO", "Benchmarks", "TestSupport", "salvor", "salvor-bank"]),
  tests(
    "SystemTests",
    ["Core", "IO", "Console", "Recovery", "Runtime", "Demo", "TestSupport", "salvor-bank", "salvor-torture"]),
  tests(
    "CLITests",
    ["Core", "IO", "Console", "CLI", "TestSupport", .arguments, "salvor"]),
  // Runs the built program, as the pages do.
  tests("DocsTests", ["Core", "IO", "Catalog", "TestSupport", "salvor"]),
  tests("VaultCLITests", ["Core", "IO", "Vault", "ObjectStoreLocal", "TestSupport", "salvor"]),
  tests("ExitDoorTests", ["Core", "DriverKit", "IO", "TestSupport", "salvor"]),
  tests(
    "RecoverySimulationTests",
    [
      "Core", "IO", "Catalog", "DriverKit", "StateKit", "Planning", "Recovery", "Workflow", "Runtime", "JournalMemory",
      "TestSupport",
    ]),
  tests("FailoverTests", ["Core", "Catalog", "DriverKit", "StateKit", "Failover", "TestSupport"]),
  tests(
    "FailoverEngineTests",
    [
      "Core", "IO", "Catalog", "DriverKit", "DriverPostgreSQL", "DriverRedis", "DriverMariaDB", "StateKit", "LeaseEtcd",
      "LeasePostgreSQL", "LeaseContract", "ReplicatedEngineContract", "Failover", "Runtime", "Web", "WatchdogDevice",
      "CFUSE", "CWatchdog", "JournalMemory", "TestSupport", "salvor",
    ]),
  tests("RolloutTests", ["Core", "Catalog", "StateKit", "Rollouts"]),
  // Real routers, before servers that say who they are.
  tests(
    "TrafficTests",
    [
      "Core", "IO", "Catalog", "DriverKit", "StateKit", "Flags", "Failover", "Rollouts", "Runtime", "TrafficContract",
      "TrafficHAProxy", "TrafficNGINX", "TrafficEnvoy", "TrafficExec", "TrafficPgBouncer", "Web", "TestSupport",
      "salvor",
    ]),
  // Real servers and agents on hosts of their own, a proxy before them, and what may happen to them.
  tests("FailoverRoomTests", ["Core", "IO", "Catalog", "FailoverRig", "TestSupport", "salvor"]),
  tests("KillTests", ["Core", "IO", "StateKit", "TestSupport", "salvor", .sqlite]),
  tests("ArchitectureTests", ["Core", "IO", "DriverKit", "Runtime", "TestSupport"]),
  tests(
    "RemoteStoreTests",
    [
      "Core", "IO", "Vault", "Web", "ObjectStoreLocal", "ObjectStoreMemory", "ObjectStoreFaulty", "ObjectStoreRetry",
      "ObjectStoreLimits", "ObjectStoreCache", "ObjectStoreMirror", "ObjectStoreREST", "ObjectStoreS3", "S3Client",
      "ObjectStoreContract",
      "RepositoryServer",
      "TestSupport", "salvor", .nioCore, .nioPosix,
    ]),
]

let package = Package(
  name: "salvor",
  platforms: [.macOS(.v15)],
  products: [
    .executable(name: "salvor", targets: ["salvor"]),
    .executable(name: "salvor-bank", targets: ["salvor-bank"]),
    .executable(name: "salvor-bench", targets: ["salvor-bench"]),
    // Loaded into what runs on the rig's hosts.
    .library(name: "RigShim", type: .dynamic, targets: ["CRigShim"]),
  ],
  dependencies: packages,
  targets: libraries + ground + engine + adapters + acts + doors + testTargets,
  swiftLanguageModes: [.v6]
)
