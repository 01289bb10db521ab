import Core
import DriverKit
import Synchronization

/// What an agent must know of Redis servers that replicate to each other.
package struct RedisMemberSettings: Sendable {
  package var name: MemberName
  /// Every member, this one too.
  package var peers: [MemberAddress]
  /// Of this member; `nil` of a witness.
  package var dataDirectory: String?
  /// What the server is started with.
  package var configFile: String?
  package var binary = "redis-server"
  package var user: String?
  package var password: SecretReference?
  package var acknowledgements = 1
  package var isBounded = false
  /// How old a sign of life may be.
  package var freshness: Duration = .seconds(1)
  package var keptCopies = 3

  package init(name: MemberName, peers: [MemberAddress]) { (self.name, self.peers) = (name, peers) }
}

/// A connection whose callers take turns.
final class SharedConnection: Sendable {
  private let connection: Mutex<Connection>

  init(_ connection: Connection) { self.connection = Mutex(connection) }

  /// Blocks; also while somebody else has the turn.
  func all(_ commands: [[String]]) throws(WireError) -> [Reply] {
    let result = connection.withLock { connection -> Result<[Reply], WireError> in
      do throws(WireError) { return .success(try connection.all(commands.map { $0.map { Array($0.utf8) } })) } catch {
        return .failure(error)
      }
    }
    return try result.get()
  }
}
