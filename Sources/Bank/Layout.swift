import Core
import IO

/// Which engines a bank's stores live in.
enum Flavour: String, Codable, Sendable, CaseIterable {
  /// Nothing to install: SQLite three times, and a directory.
  case embedded
  /// The ledger in PostgreSQL, sessions in Redis, accounts in SQLite, and a directory; and two services more: events in
  /// NATS JetStream, and notices in MariaDB.
  case engines

  var services: [Service] {
    Service.allCases.filter { self == .engines || ![.events, .notices].contains($0) }
  }
}

/// How one bank lies below its directory; written as `bank.json`, so that every command finds the same bank.
///
///     bank.json, engines.json            what this bank is, and how its engines are reached
///     config/<service>.json              what each service is started with
///     data/accounts/accounts.db          and so on: everything worth backing up, one directory per store
///     data/statements/
///     secrets/                           the engines' passwords
///     run/, log/                         what nobody misses
struct Layout: Codable, Sendable {
  /// Absolute.
  var directory: String
  var flavour: Flavour
  /// Services get this port and those after it, the gateway the fifth.
  var basePort: Int
  var accounts: Int
  var openingBalanceCents: Int64
  var statementEvery: Int
  var failFirstReady: Int

  static func read(_ directory: String) throws -> Layout {
    let path = "\(try absolute(directory))/bank.json"
    guard Files.exists(path) else {
      throw BankError.configuration("\(path) is missing: run `salvor-bank configure` first")
    }
    return try CanonicalJSON.decode(Layout.self, from: Files.read(path, limitBytes: 1 << 20))
  }

  static func absolute(_ path: String) throws -> String {
    guard let resolved = realpath(path, nil) else { throw SystemFailure("realpath", path: path) }
    defer { free(resolved) }
    return String(cString: resolved)
  }

  func port(_ service: Service) -> Int { basePort + (Service.allCases.firstIndex(of: service) ?? 0) }

  func url(_ service: Service) -> String { "http://127.0.0.1:\(port(service))" }

  func configPath(_ service: Service) -> String { "\(directory)/config/\(service.rawValue).json" }

  func dataPath(_ service: Service) -> String { "\(directory)/data/\(service.rawValue)" }

  /// - Parameter engines: What `engines up` noted; needed for ``Flavour/engines``.
  func store(_ service: Service, _ engines: EngineFacts?) throws(BankError) -> StoreSettings? {
    switch (service, flavour) {
    case (.gateway, _): return nil
    case (.statements, _): return StoreSettings(kind: .files, path: dataPath(service))
    case (.ledger, .engines), (.sessions, .engines), (.events, _), (.notices, _):
      guard let engines else { throw .configuration("engines.json is missing: run `salvor-bank engines up` first") }
      switch service {
      case .ledger:
        let server = engines.postgresql
        return StoreSettings(
          kind: .postgresql, host: server.host, port: server.port, user: server.user, database: server.database,
          passwordFile: server.passwordFile)
      case .notices:
        let server = engines.mariadb
        return StoreSettings(
          kind: .mariadb, host: server.host, port: server.port, user: server.user, database: server.database,
          passwordFile: server.passwordFile)
      case .events: return StoreSettings(kind: .nats, host: engines.nats.host, port: engines.nats.port)
      default: return StoreSettings(kind: .redis, host: engines.redis.host, port: engines.redis.port)
      }
    case (.accounts, _), (.ledger, .embedded), (.sessions, .embedded):
      return StoreSettings(kind: .sqlite, path: "\(dataPath(service))/\(service.rawValue).db")
    }
  }

  /// Writes `bank.json` and every service's configuration.
  func write(_ engines: EngineFacts?) throws {
    for name in ["config", "data", "log", "run"] { try Files.createDirectory("\(directory)/\(name)") }
    for service in flavour.services {
      var configuration = ServiceConfiguration(port: port(service), store: try store(service, engines))
      switch service {
      case .accounts:
        configuration.accounts = accounts
        configuration.openingBalanceCents = openingBalanceCents
      case .gateway:
        configuration.peers = Dictionary(
          uniqueKeysWithValues: flavour.services.filter { $0 != .gateway }.map { ($0.rawValue, url($0)) })
        configuration.statementEvery = statementEvery
      case .statements: configuration.failFirstReady = failFirstReady
      case .ledger, .sessions, .events, .notices: break
      }
      try Files.replace(configPath(service), with: CanonicalJSON.encode(configuration, pretty: true), mode: 0o644)
    }
    try Files.replace("\(directory)/bank.json", with: CanonicalJSON.encode(self, pretty: true), mode: 0o644)
  }
}

#if canImport(Glibc)
  import Glibc
#endif
