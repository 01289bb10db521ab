import Core

/// What an agent is told about the engine beside it; a witness needs none of it.
package struct MemberOptions: Sendable {
  package var dataDirectory: String?
  /// `nil` for the engine's usual one.
  package var user: String?
  package var password: SecretReference?
  /// In the form of `.pgpass`, readable for the server's user; of PostgreSQL.
  package var passwordFile: String?
  /// What the server is started with; of Redis and MariaDB.
  package var configFile: String?
  /// A Unix socket instead of the address in the policy; of MariaDB.
  package var socket: String?
  /// A command that writes a copy of the primary's data to its standard output; of MariaDB.
  package var copyCommand: String?
  /// How many copies of what was undone are kept beside the data.
  package var keptCopies = 3

  package init() {}
}
