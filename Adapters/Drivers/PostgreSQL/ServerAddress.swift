import CPQ
import Core

#if canImport(Glibc)
  import Glibc
#endif

/// Where a server is and as whom to talk to it; no secret in it.
struct ServerAddress: Sendable, Equatable, CustomStringConvertible {
  /// A name, an address, or a directory with a Unix socket in it.
  var host: String
  var port: UInt16
  var user: String
  var database: String
  var connectSeconds = 10
  /// How the server lists us, and what a setting such as `synchronous_standby_names` calls us.
  var applicationName = "salvor"
  /// A connection that speaks the replication protocol, and no SQL.
  var isReplication = false

  func database(_ name: String) -> ServerAddress {
    var copy = self
    copy.database = name
    return copy
  }

  func at(_ host: String, port: UInt16) -> ServerAddress {
    var copy = self
    (copy.host, copy.port) = (host, port)
    return copy
  }

  var description: String { "\(host):\(port)/\(database) as \(user)" }

  /// Blocks. The caller frees what it gets with PQfinish, also when the connection failed.
  func connect(password: Secret?) -> OpaquePointer? { with(password) { PQconnectdbParams($0, $1, 0) } }

  /// As ``connect(password:)``, and waits for nothing: PQconnectPoll goes on with it.
  func begin(password: Secret?) -> OpaquePointer? { with(password) { PQconnectStartParams($0, $1, 0) } }

  private typealias Words = [UnsafePointer<CChar>?]

  private func with(_ password: Secret?, _ connect: (Words, Words) -> OpaquePointer?) -> OpaquePointer? {
    var pairs: [(String, UnsafeMutablePointer<CChar>?)] = [
      ("host", strdup(host)), ("port", strdup(String(port))), ("user", strdup(user)), ("dbname", strdup(database)),
      ("connect_timeout", strdup(String(connectSeconds))), ("application_name", strdup(applicationName)),
      ("client_encoding", strdup("UTF8")),
      // A peer that vanished without a word is noticed in about half a minute.
      ("keepalives_idle", strdup("10")), ("keepalives_interval", strdup("5")), ("keepalives_count", strdup("4")),
      // What was sent and never confirmed keeps keepalives from being sent at all.
      ("tcp_user_timeout", strdup("30000")),
    ]
    if isReplication { pairs.append(("replication", strdup("true"))) }
    if let password {
      let copy = UnsafeMutablePointer<CChar>.allocate(capacity: password.count + 1)
      password.withBytes { bytes in
        for (index, byte) in bytes.enumerated() { copy[index] = CChar(bitPattern: byte) }
      }
      copy[password.count] = 0
      defer {
        explicit_bzero(copy, password.count)
        copy.deallocate()
      }
      pairs.append(("password", copy))
      defer { for pair in pairs.dropLast() { free(pair.1) } }
      return open(pairs, connect)
    }
    defer { for pair in pairs { free(pair.1) } }
    return open(pairs, connect)
  }

  private func open(
    _ pairs: [(String, UnsafeMutablePointer<CChar>?)], _ connect: (Words, Words) -> OpaquePointer?
  ) -> OpaquePointer? {
    let names = pairs.map { strdup($0.0) }
    defer { for name in names { free(name) } }
    let keywords = names.map { UnsafePointer<CChar>($0) } + [nil]
    let values = pairs.map { UnsafePointer<CChar>($0.1) } + [nil]
    return connect(keywords, values)
  }
}
