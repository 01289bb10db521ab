import Core
import DriverKit
import IO

/// What a captured node was found to hold; travels with the copy as `salvor.json`.
struct Description: Codable, Sendable, Equatable {
  static let name: TreePath = "salvor.json"
  static let definitions: TreePath = "definitions.json"
  static let limitBytes = 256 << 20

  struct Queue: Codable, Sendable, Equatable {
    /// Messages that time takes nothing from.
    var messages: Int64
    var digest: String
    /// Messages that expire: there at the mark, and perhaps not when somebody looks.
    var expiring: Int64
  }

  var node: String
  /// By virtual host and name, as the management API's paths spell them.
  var queues: [String: Queue]
  /// Of what is defined: users, virtual hosts, exchanges, queues, bindings, policies, parameters.
  var definitions: String
  /// How many of each, by kind.
  var defined: [String: Int64]
  var notes: [String]

  /// The scheme `rabbitmq-v1`: a part per queue for its messages in their order, and one for the definitions.
  var digest: ContentDigest {
    var parts = queues.mapValues { ContentDigest.Part(digest: $0.digest, count: $0.messages) }
    parts["definitions"] = .init(digest: definitions, count: defined.values.reduce(0, +))
    return ContentDigest(scheme: "rabbitmq-v1", parts: parts)
  }
}

struct Contents: Sendable {
  var described: Description
  /// As the management API exports them, with hashes of passwords.
  var definitions: JSONValue
}

/// One queue, as far as reading it goes.
private struct FoundQueue: Sendable {
  var vhost: String
  var name: String
  /// It has a time to live for its messages.
  var expires: Bool

  var key: String { "\(Management.encode(vhost))/\(Management.encode(name))" }
}

extension RabbitMQDriver {
  /// What a node of our own finds in a copy: every definition, and every message of every queue in its order.
  ///
  /// The node works on a copy of the copy, and takes the messages from it.
  ///
  /// - Parameters:
  ///   - copy: The node's directory; not touched.
  ///   - moment: Of the cut. What died after it has come into its queue by the proof itself.
  ///   - directory: For the server; cleared, and gone afterwards.
  func contents(
    of copy: String, _ flags: [UInt8], node: String, at moment: Timestamp, provedIn directory: String,
    interruption: Interruption
  ) async throws(DriverError) -> Contents {
    try await environment.pool.run { () throws(DriverError) in
      do throws(SystemFailure) {
        try Files.removeTree(directory)
        try Files.createDirectory(directory, mode: 0o700)
        let mnesia = ScratchServer.mnesia(directory)
        try Files.createDirectory(mnesia, mode: 0o700)
        var files = DirectoryCopy(from: copy, to: "\(mnesia)/\(node)")
        try files.bringUpToDate(isStill: true)
        try Files.replace("\(mnesia)/\(node)\(NodeFiles.flags)", with: flags)
      } catch { throw DriverError(error) }
    }
    let files = "\(ScratchServer.mnesia(directory))/\(node)"
    try await complete(files, node, as: files)
    let contents = try await withScratchServer(of: node, at: directory, interruption: interruption) {
      server throws(DriverError) in
      try await self.contents(server, node, moment, interruption)
    }
    await environment.pool.run { try? Files.removeTree(directory) }
    return contents
  }

  private func contents(
    _ server: ScratchServer, _ node: String, _ moment: Timestamp, _ interruption: Interruption
  ) async throws(DriverError) -> Contents {
    let queues = try await settledQueues(server, interruption)
    let definitions = try Self.definitions(try await server.management.get("definitions"), without: server.user)
    let survey = Survey(queues)
    try await admit(server, definitions)
    var found: [String: Description.Queue] = [:]
    for queue in survey.readable {
      found[queue.key] = try await read(queue, server, moment, interruption)
    }
    var notes = survey.notes
    let expiring = found.filter { $0.value.expiring > 0 }
    if !expiring.isEmpty {
      let list = expiring.sorted { $0.key < $1.key }.map { "\($0.key) (\($0.value.expiring))" }
      notes.append("messages that expire are captured, and not compared: \(list.joined(separator: ", "))")
    }
    let compared = Self.comparable(definitions, without: survey.vanishing)
    let digest: String
    do { digest = try CanonicalJSON.digest(compared).hex } catch { throw DriverError(error) }
    return Contents(
      described: Description(
        node: node, queues: found, definitions: digest,
        defined: compared.compactMapValues { $0.array.map { Int64($0.count) } }, notes: notes),
      definitions: .object(definitions))
  }

  /// The node's queues, once those are gone whose owners went with the captured node.
  ///
  /// Exclusive queues that are durable are in the files, and a node that finds one deletes it: by the queue's own process, which
  /// nobody waits for, so the node serves before it is done. Until then it names queues that it then doesn't know, and bindings
  /// to them. Nobody of the proof has an exclusive queue, so the last of them is gone when none is named.
  private func settledQueues(
    _ server: ScratchServer, _ interruption: Interruption
  ) async throws(DriverError) -> [JSONValue] {
    let limit = environment.time.monotonicNanoseconds() + Self.settlingLimit.wholeNanoseconds
    while true {
      let queues =
        try await server.management.get(
          "queues?columns=name,vhost,type,arguments,effective_policy_definition,durable,exclusive"
        ).array ?? []
      let left = queues.filter { $0["exclusive"]?.bool == true }
      if left.isEmpty { return queues }
      if interruption.isSet { throw .cancelled }
      guard environment.time.monotonicNanoseconds() < limit else {
        throw .engineFailed(
          "the proving server keeps \(left.count) queues whose owners are gone, such as "
            + (left[0]["name"]?.string ?? "?"), log: "")
      }
      do { try await environment.time.sleep(for: .milliseconds(100)) } catch { throw DriverError(error) }
    }
  }

  /// How long a node may take to delete the queues of owners who are gone.
  private static var settlingLimit: Duration { .seconds(600) }

  /// Lets our user into every virtual host, and no limit of theirs keeps it out.
  private func admit(_ server: ScratchServer, _ definitions: [String: JSONValue]) async throws(DriverError) {
    for vhost in definitions["vhosts"]?.array ?? [] {
      guard let name = vhost["name"]?.string else { throw .corrupt("a virtual host without a name") }
      let place = Management.encode(name)
      let answer = try await server.management.ask(
        .put, "permissions/\(place)/\(server.user)", ["configure": ".*", "write": ".*", "read": ".*"])
      guard (200..<300).contains(answer.status) else {
        throw .engineFailed("the proving server doesn't let us into \(name)", log: "\(answer.status)")
      }
      for limit in ["max-connections", "max-queues"] {
        _ = try await server.management.ask(.delete, "vhost-limits/\(place)/\(limit)", nil)
      }
    }
  }

  private func read(
    _ queue: FoundQueue, _ server: ScratchServer, _ moment: Timestamp, _ interruption: Interruption
  ) async throws(DriverError) -> Description.Queue {
    // A quorum queue elects its leader after the server has begun to serve.
    var tries = 240
    while true {
      do throws(WireError) {
        return try await environment.pool.run { () throws(WireError) -> Description.Queue in
          try server.read(queue.name, in: queue.vhost, expires: queue.expires, moment, interruption)
        }
      } catch {
        switch error {
        case .refused where tries > 0, .broken where tries > 0, .silent where tries > 0: tries -= 1
        case .refused(let code, let text):
          throw .corrupt("the server doesn't give the messages of queue \(queue.key): \(code) \(text)")
        default: throw error.driverError(at: "the proving server", doing: "queue \(queue.key)")
        }
      }
      do { try await environment.time.sleep(for: .milliseconds(250)) } catch { throw DriverError(error) }
    }
  }

  // MARK: Definitions

  /// Without the user that is there for the proof.
  private static func definitions(
    _ given: JSONValue, without user: String
  ) throws(DriverError) -> [String: JSONValue] {
    guard var result = given.object, result["vhosts"]?.array != nil else {
      throw .engineFailed("the proving server doesn't give its definitions", log: "")
    }
    result["users"] = .array((result["users"]?.array ?? []).filter { $0["name"]?.string != user })
    for kind in ["permissions", "topic_permissions"] {
      result[kind] = .array((result[kind]?.array ?? []).filter { $0["user"]?.string != user })
    }
    return result
  }

  /// In one order, without versions, and without queues that go away by themselves.
  private static func comparable(
    _ definitions: [String: JSONValue], without vanishing: Set<[String]>
  ) -> [String: JSONValue] {
    var result: [String: JSONValue] = [:]
    for (kind, value) in definitions {
      guard let list = value.array else { continue }
      let kept = list.filter { entry in
        guard let vhost = entry["vhost"]?.string else { return true }
        switch kind {
        case "queues": return !vanishing.contains([vhost, entry["name"]?.string ?? ""])
        case "bindings":
          return entry["destination_type"]?.string != "queue"
            || !vanishing.contains([vhost, entry["destination"]?.string ?? ""])
        default: return true
        }
      }
      let spelled = kept.map { ((try? CanonicalJSON.encode($0)) ?? [], $0) }
      result[kind] = .array(spelled.sorted { $0.0.lexicographicallyPrecedes($1.0) }.map(\.1))
    }
    return result
  }
}

/// Which queues can be read, and why others can't.
private struct Survey {
  var readable: [FoundQueue] = []
  /// Virtual host and name of queues that are deleted when nobody uses them.
  var vanishing: Set<[String]> = []
  var notes: [String] = []

  init(_ queues: [JSONValue]) {
    func setting(_ queue: JSONValue, _ name: String) -> Bool {
      // Somebody's empty settings are a list in their JSON.
      queue["arguments"]?["x-\(name)"] != nil || queue["effective_policy_definition"]?[name] != nil
    }
    func names(_ list: [FoundQueue]) -> String { list.map(\.key).sorted().joined(separator: ", ") }
    var streams: [FoundQueue] = []
    var bounded: [FoundQueue] = []
    var leased: [FoundQueue] = []
    // Where messages die, others come into queues that may have no room for them.
    let deadly = Set(
      queues.filter { setting($0, "dead-letter-exchange") }.compactMap { $0["vhost"]?.string })
    for queue in queues {
      guard let vhost = queue["vhost"]?.string, let name = queue["name"]?.string else { continue }
      let found = FoundQueue(vhost: vhost, name: name, expires: setting(queue, "message-ttl"))
      if queue["type"]?.string == "stream" {
        streams.append(found)
      } else if setting(queue, "expires") {
        leased.append(found)
        vanishing.insert([vhost, name])
      } else if deadly.contains(vhost), setting(queue, "max-length") || setting(queue, "max-length-bytes") {
        bounded.append(found)
      } else {
        readable.append(found)
      }
    }
    readable.sort { $0.key < $1.key }
    if !streams.isEmpty { notes.append("streams are copied, and neither read nor compared: \(names(streams))") }
    if !leased.isEmpty {
      notes.append("queues that are deleted when nobody uses them are copied, and not compared: \(names(leased))")
    }
    if !bounded.isEmpty {
      notes.append(
        "queues with a limit of length where messages die are copied, and their messages not compared: \(names(bounded))"
      )
    }
  }
}

extension ScratchServer {
  /// Takes every message of one queue. Blocks.
  ///
  /// Of each message in order: exchange, routing key, properties with headers, and body, each with its length. What consumers gave
  /// back comes without an order, for a quorum queue has none for it.
  fileprivate func read(
    _ queue: String, in vhost: String, expires: Bool, _ moment: Timestamp, _ interruption: Interruption
  ) throws(WireError) -> Description.Queue {
    let connection = try Connection(
      host: "127.0.0.1", port: port, vhost: vhost, user: user, password: password, patience: .seconds(60),
      interruption: interruption)
    var running = RunningDigest()
    var returned: [String] = []
    var found = Description.Queue(messages: 0, digest: "", expiring: 0)
    let seconds = moment.nanoseconds / 1_000_000_000
    try connection.drain(queue, isFinal: true) { message throws(WireError) in
      // It expired under our hands, in another queue, where it is counted.
      if let died = message.died, died >= seconds { return }
      if expires || message.expires {
        found.expiring += 1
        return
      }
      found.messages += 1
      guard message.isReturned else { return message.add(to: &running) }
      var own = RunningDigest()
      message.add(to: &own)
      returned.append(own.finish().hex)
    }
    connection.close()
    if !returned.isEmpty {
      running.update("\(returned.count) given back\n" + returned.sorted().joined(separator: "\n"))
    }
    found.digest = running.finish().hex
    return found
  }
}

extension Delivery {
  fileprivate func add(to digest: inout RunningDigest) {
    digest.update("\(exchange.count) \(routingKey.count) ")
    digest.update("\(properties.count) \(body.count)\n")
    digest.update(exchange)
    digest.update(routingKey)
    digest.update(properties)
    digest.update(body)
  }
}
