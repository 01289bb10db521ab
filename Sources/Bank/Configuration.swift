import Core
import IO

/// One service's configuration file, in JSON.
struct ServiceConfiguration: Codable, Sendable {
  /// On loopback.
  var port: Int
  /// Absent for the gateway, which keeps nothing.
  var store: StoreSettings?
  /// Where the other services answer, such as `http://127.0.0.1:7101`, by name; for the gateway.
  var peers: [String: String]?
  /// How many accounts `init` opens; 1000 unless given.
  var accounts: Int?
  /// What each of them holds at first, in cents; 100 000 unless given.
  var openingBalanceCents: Int64?
  /// The gateway has every n-th transfer written as a statement; each one unless given.
  var statementEvery: Int?
  /// How many calls of `/ready` after each start say "not yet"; 0 unless given.
  var failFirstReady: Int?

  static func read(_ path: String) throws -> ServiceConfiguration {
    do {
      return try CanonicalJSON.decode(ServiceConfiguration.self, from: Files.read(path, limitBytes: 1 << 20))
    } catch let failure as SystemFailure {
      throw failure
    } catch {
      throw BankError.configuration("\(path) is not a service's configuration: \(error)")
    }
  }

  func peer(_ service: Service) throws(BankError) -> String {
    guard let url = peers?[service.rawValue] else { throw .configuration("peers lacks '\(service.rawValue)'") }
    return url
  }

  func requireStore() throws(BankError) -> StoreSettings {
    guard let store else { throw .configuration("'store' is missing") }
    return store
  }
}

/// The services; the raw value is the name everywhere.
enum Service: String, CaseIterable, Sendable {
  case accounts, ledger, sessions, statements, gateway
  /// Only where there are engines for them.
  case events, notices
}

/// Where a service keeps its data.
struct StoreSettings: Codable, Sendable {
  enum Kind: String, Codable, Sendable {
    case sqlite, files, postgresql, redis, mariadb, nats
  }

  var kind: Kind
  /// sqlite: the database file; files: the directory.
  var path: String?
  var host: String?
  var port: Int?
  var user: String?
  var database: String?
  /// The password's file; its first line counts.
  var passwordFile: String?

  func requirePath() throws(BankError) -> String {
    guard let path, path.hasPrefix("/") else { throw .configuration("store.path must be an absolute path") }
    return path
  }

  func requireAddress() throws(BankError) -> (host: String, port: Int) {
    guard let port, (1...65_535).contains(port) else { throw .configuration("store.port must be 1 to 65535") }
    return (host ?? "127.0.0.1", port)
  }
}
