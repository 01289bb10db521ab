import Core
import DriverKit
import IO

/// What an agent must know of MariaDB servers that replicate to each other.
package struct MariaDBMemberSettings: Sendable {
  package var name: MemberName
  /// Every member, this one too.
  package var peers: [MemberAddress]
  /// Of this member; `nil` of a witness.
  package var dataDirectory: String?
  /// What the server is started with.
  package var configFile: String?
  /// A Unix socket, instead of the address.
  package var socket: String?
  /// Who may do everything, on every member.
  package var user = "salvor"
  package var password: SecretReference?
  package var binDirectory: String?
  /// Writes a copy of the primary to its output, as mbstream.
  package var copyCommand: String?
  package var isBounded = false
  /// How old a sign of life may be.
  package var freshness: Duration = .seconds(1)
  package var keptCopies = 3

  package init(name: MemberName, peers: [MemberAddress]) { (self.name, self.peers) = (name, peers) }
}

extension MariaDBMember {
  package func sight(of member: MemberName) async -> Sight {
    guard let peer = settings.peers.first(where: { $0.name == member }) else { return .silent }
    let driver = driver
    do {
      return try await environment.time.withTimeLimit(.seconds(1)) {
        let address = ServerAddress(host: peer.host, port: peer.port, user: driver.address.user, connectSeconds: 1)
        let connection = try await Connection.open(
          address, password: try await driver.secret(), pool: driver.environment.pool)
        let answer = try? await connection.value("SELECT @@read_only")
        await connection.close()
        return answer == "0" ? .serves : answer == nil ? .silent : .answers
      }
    } catch {
      // The library doesn't tell one failure to connect from another.
      return await environment.pool.run {
        do throws(ConnectFailure) {
          _ = try TimedSocket<ConnectFailure>.connect(host: peer.host, port: peer.port, patience: .milliseconds(300))
          return .silent
        } catch { return error == .refused ? .refused : .silent }
      }
    }
  }
}

private enum ConnectFailure: SocketFailure, Equatable {
  case refused, other

  static func silent(_ limit: Duration) -> Self { .other }
  static func broken(_ why: String) -> Self { why.contains("refused") ? .refused : .other }
  static var cancelled: Self { .other }
}

/// `0-1-100`: domain, server and sequence number, of a log with one domain.
struct GTIDPosition: Equatable {
  /// 0 of an empty log.
  var sequence: Int64

  /// - Returns: `nil` of several domains: what they have can't be compared.
  init?(_ text: String) {
    if text.isEmpty {
      sequence = 0
      return
    }
    let parts = text.split(separator: "-")
    guard parts.count == 3, !text.contains(","), let number = Int64(parts[2]) else { return nil }
    sequence = number
  }
}
