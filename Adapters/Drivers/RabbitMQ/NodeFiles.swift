import Core
import DriverKit
import IO

/// What a node's directory says of itself. Reading it blocks.
struct NodeFiles: Sendable, Equatable {
  /// The nodes of its cluster, itself among them.
  var members: [String]

  /// What a node keeps beside its directory, under the directory's name and this.
  static let flags = "-feature_flags"

  init(_ directory: String) throws(DriverError) {
    let bytes: [UInt8]
    do throws(SystemFailure) { bytes = try Files.read("\(directory)/cluster_nodes.config", limitBytes: 1 << 16) } catch
    {
      if error.number == ENOENT { throw .unsupported("\(directory) is no RabbitMQ node's directory") }
      throw DriverError(error)
    }
    try self.init(bytes, of: directory)
  }

  /// - Parameter bytes: `{[all],[with discs]}.`, as Erlang spells terms.
  init(_ bytes: [UInt8], of directory: String) throws(DriverError) {
    let text = String(decoding: bytes, as: UTF8.self)
    guard let list = text.firstMatch(of: /^\s*\{\s*\[([^\]]*)\]/)?.output.1 else {
      throw .corrupt("\(directory)/cluster_nodes.config names no nodes")
    }
    members = list.split(separator: ",").map { $0.filter { !$0.isWhitespace && $0 != "'" } }
    guard !members.isEmpty else { throw .corrupt("\(directory)/cluster_nodes.config names no nodes") }
  }

  /// - Throws: If it is one of a cluster: no moment of one node is one of all.
  func requireAlone() throws(DriverError) {
    guard members.count == 1 else {
      throw .unsupported(
        "the node is one of a cluster of \(members.count) (\(members.joined(separator: ", "))), which this driver doesn't cut"
      )
    }
  }
}

#if canImport(Glibc)
  import Glibc
#endif
