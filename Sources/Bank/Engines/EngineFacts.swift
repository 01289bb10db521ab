import Core
import IO

/// How the bank's engines are reached and run; `engines.json`, written by `engines up`.
struct EngineFacts: Codable, Sendable {
  struct PostgreSQL: Codable, Sendable {
    var host: String
    var port: Int
    /// The bank's own role, and its database.
    var user: String
    var database: String
    var passwordFile: String
    /// The superuser, which backups are taken as.
    var adminUser: String
    var adminPasswordFile: String
    var dataDirectory: String
    /// Where the server's own programs are.
    var binDirectory: String
    /// The system user the server runs as.
    var runAs: String
  }

  struct Redis: Codable, Sendable {
    var host: String
    var port: Int
    /// Holds `redis.conf` and the data.
    var dataDirectory: String
    var configFile: String
    var runAs: String
  }

  struct MariaDB: Codable, Sendable {
    var host: String
    var port: Int
    /// The bank's own user, and its database.
    var user: String
    var database: String
    var passwordFile: String
    /// The user backups are taken as.
    var adminUser: String
    var adminPasswordFile: String
    var dataDirectory: String
    var configFile: String
    var runAs: String
  }

  struct NATS: Codable, Sendable {
    var host: String
    var port: Int
    /// The program.
    var binary: String
    /// Holds the streams, and what the server logs.
    var storeDirectory: String
    var configFile: String
    var runAs: String
  }

  var postgresql: PostgreSQL
  var redis: Redis
  var mariadb: MariaDB
  var nats: NATS

  static func path(in directory: String) -> String { "\(directory)/engines.json" }

  /// - Returns: `nil` if there is none.
  static func read(in directory: String) throws -> EngineFacts? {
    let path = path(in: directory)
    guard Files.exists(path) else { return nil }
    return try CanonicalJSON.decode(EngineFacts.self, from: Files.read(path, limitBytes: 1 << 20))
  }
}
