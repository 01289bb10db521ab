import Core
import DriverKit
import Glibc
import IO

/// A stream as a capture keeps it: what it was told, where it is cut, and who had read how far.
struct CapturedStream: Codable, Sendable, Equatable {
  struct Consumer: Codable, Sendable, Equatable {
    var name: String
    var created: String
    var config: [String: JSONValue]
    /// Up to here nothing is delivered again.
    var count: Int64
    var sequence: Int64
  }

  var name: String
  var created: String
  var config: [String: JSONValue]
  var consumers: [Consumer]

  /// What a digest of the settings is made of.
  var described: CapturedStream { self }
}

/// What lies beside the streams of a capture, as `salvor.json`.
struct Description: Codable, Sendable, Equatable {
  static let name: TreePath = "salvor.json"
  static let limitBytes = 256 << 20

  var account: String
  var streams: [CapturedStream]
  /// By stream; without digests if none were wanted.
  var contents: [String: StreamContent]
}

/// The small files a server keeps beside a stream's messages, each signed with its name. Every call blocks.
///
/// Source: the layout of a store directory that nats-server 2.9 writes: `<stream>/meta.inf`, `meta.sum`, `msgs/`, and
/// `obs/<consumer>/meta.inf`, `meta.sum`, `o.dat`.
enum StreamFiles {
  /// Settings and consumers of every stream in an account's directory, ascending by name.
  ///
  /// - Throws: ``DriverError/corrupt(_:)`` where a signature isn't the file's.
  static func read(_ account: String) throws(DriverError) -> [CapturedStream] {
    var result: [CapturedStream] = []
    for name in try names("\(account)/streams") {
      let place = "\(account)/streams/\(name)"
      let (created, config) = try meta(place, signedWith: name)
      guard config["name"]?.string == name else { throw .corrupt("stream \(name) lies in another one's directory") }
      var consumers: [CapturedStream.Consumer] = []
      if Files.exists("\(place)/obs") {
        for consumer in try names("\(place)/obs") {
          let (created, config) = try meta("\(place)/obs/\(consumer)", signedWith: "\(name)/\(consumer)")
          guard config["durable_name"]?.string != nil else { continue }
          let state = try self.state("\(place)/obs/\(consumer)")
          consumers.append(
            .init(name: consumer, created: created, config: config, count: state.count, sequence: state.sequence))
        }
      }
      result.append(CapturedStream(name: name, created: created, config: config, consumers: consumers))
    }
    return result
  }

  /// Writes a stream's settings, and its consumers' unless they are left out.
  static func write(_ stream: CapturedStream, in account: String, withConsumers: Bool = true) throws(DriverError) {
    let place = "\(account)/streams/\(stream.name)"
    try write(stream.created, stream.config, more: [:], at: place, signedWith: stream.name)
    let consumers = "\(place)/obs"
    do throws(SystemFailure) {
      try Files.removeTree(consumers)
      if withConsumers { try Files.createDirectory(consumers, mode: 0o700) }
    } catch { throw DriverError(error) }
    for consumer in withConsumers ? stream.consumers : [] {
      let directory = "\(consumers)/\(consumer.name)"
      do throws(SystemFailure) {
        try Files.createDirectory(directory, mode: 0o700)
        try Files.replace("\(directory)/o.dat", with: encode(count: consumer.count, sequence: consumer.sequence))
      } catch { throw DriverError(error) }
      try write(
        consumer.created, consumer.config, more: ["Name": .string(consumer.name)], at: directory,
        signedWith: "\(stream.name)/\(consumer.name)")
    }
  }

  /// Moves a stream's settings and consumers to `aside` and puts neutral settings in their place.
  static func putAside(_ stream: CapturedStream, in account: String, to aside: String) throws(DriverError) {
    let (place, kept) = ("\(account)/streams/\(stream.name)", "\(aside)/\(stream.name)")
    do throws(SystemFailure) {
      try Files.createDirectory(aside, mode: 0o700)
      try Files.createDirectory(kept, mode: 0o700)
      for name in own where Files.exists("\(place)/\(name)") {
        try Files.rename("\(place)/\(name)", to: "\(kept)/\(name)")
      }
    } catch { throw DriverError(error) }
    var copy = stream
    copy.config = neutral(stream)
    try write(copy, in: account, withConsumers: false)
  }

  /// Undoes ``putAside(_:in:to:)``.
  static func putBack(_ stream: CapturedStream, in account: String, from aside: String) throws(DriverError) {
    let (place, kept) = ("\(account)/streams/\(stream.name)", "\(aside)/\(stream.name)")
    do throws(SystemFailure) {
      for name in own {
        try Files.removeTree("\(place)/\(name)")
        if Files.exists("\(kept)/\(name)") { try Files.rename("\(kept)/\(name)", to: "\(place)/\(name)") }
      }
    } catch { throw DriverError(error) }
  }

  private static let own = ["meta.inf", "meta.sum", "obs"]

  /// Settings under which a server keeps every message it is given, for as long as it runs.
  static func neutral(_ stream: CapturedStream) -> [String: JSONValue] {
    var result: [String: JSONValue] = [
      "name": .string(stream.name), "subjects": [.string("salvor.proof.\(stream.name)")], "retention": "limits",
      "storage": "file", "num_replicas": 1, "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0,
      "max_msgs_per_subject": -1, "max_msg_size": -1, "discard": "old", "duplicate_window": 0,
    ]
    // How blocks are laid out, in servers that have a choice.
    result["compression"] = stream.config["compression"]
    return result
  }

  private static func names(_ directory: String) throws(DriverError) -> [String] {
    do throws(SystemFailure) {
      guard Files.exists(directory) else { return [] }
      return try Files.names(in: directory).map(\.lossyText).filter(StreamInfo.isName).sorted()
    } catch { throw DriverError(error) }
  }

  private static func meta(
    _ place: String, signedWith key: String
  ) throws(DriverError) -> (created: String, config: [String: JSONValue]) {
    let (bytes, sum) = (try contents("\(place)/meta.inf"), try contents("\(place)/meta.sum"))
    guard Hex.encode(HighwayHash.hash64(bytes, key: Digest.of(key).bytes)) == String(decoding: sum, as: UTF8.self),
      var config = (try? CanonicalJSON.decode(JSONValue.self, from: bytes))?.object,
      let created = config["Created"]?.string
    else { throw .corrupt("the settings of \(key) are not what the server signed") }
    config["Created"] = nil
    config["Name"] = nil
    return (created, config)
  }

  private static func write(
    _ created: String, _ config: [String: JSONValue], more: [String: JSONValue], at place: String,
    signedWith key: String
  ) throws(DriverError) {
    do {
      let whole = config.merging(more) { $1 }.merging(["Created": .string(created)]) { $1 }
      let bytes = try CanonicalJSON.encode(whole)
      let sum = Hex.encode(HighwayHash.hash64(bytes, key: Digest.of(key).bytes))
      try Files.createDirectory(place, mode: 0o700)
      try Files.replace("\(place)/meta.inf", with: bytes)
      try Files.replace("\(place)/meta.sum", with: Array(sum.utf8))
    } catch { throw DriverError(error) }
  }

  private static func contents(_ path: String) throws(DriverError) -> [UInt8] {
    do throws(SystemFailure) { return try Files.read(path, limitBytes: 1 << 24) } catch {
      if error.number == ENOENT { throw .corrupt("\(path) is missing") }
      throw DriverError(error)
    }
  }

  // MARK: How far a consumer is

  /// `o.dat`: a magic number, a version, then the floor and what was delivered (count and sequence each), and two empty
  /// lists: of what is on its way, and of what was sent again.
  static func encode(count: Int64, sequence: Int64) -> [UInt8] {
    [22, 2] + varint(count) + varint(sequence) + varint(count) + varint(sequence) + [0, 0]
  }

  private static func state(_ place: String) throws(DriverError) -> (count: Int64, sequence: Int64) {
    // A consumer that nobody has asked for anything may have no file yet.
    guard Files.exists("\(place)/o.dat") else { return (0, 0) }
    let bytes = try contents("\(place)/o.dat")
    guard bytes.count >= 8, bytes[0] == 22, bytes[1] == 1 || bytes[1] == 2 else {
      throw .corrupt("\(place)/o.dat is not a consumer's state")
    }
    var rest = bytes[2...]
    guard let count = varint(&rest), let sequence = varint(&rest) else {
      throw .corrupt("\(place)/o.dat is not a consumer's state")
    }
    return (count, sequence)
  }

  private static func varint(_ value: Int64) -> [UInt8] {
    var (rest, result) = (UInt64(max(0, value)), [UInt8]())
    while rest >= 0x80 {
      result.append(UInt8(rest & 0x7f) | 0x80)
      rest >>= 7
    }
    return result + [UInt8(rest)]
  }

  private static func varint(_ bytes: inout ArraySlice<UInt8>) -> Int64? {
    var (value, shift) = (UInt64(0), UInt64(0))
    while let byte = bytes.popFirst(), shift < 63 {
      value |= UInt64(byte & 0x7f) << shift
      if byte & 0x80 == 0 { return Int64(exactly: value) }
      shift += 7
    }
    return nil
  }
}
