import Core
import IO

/// Reads tree blobs, one node after another, without building a document.
///
/// The bytes may be hostile: nesting is bounded, numbers are checked, a name that could leave its directory
/// is refused. Fields this version doesn't know are skipped.
package enum TreeParser {
  /// - Returns: The nodes ascending by name, whatever their order was.
  /// - Throws: ``TreeError/malformed(why:offset:)``, also for a name that comes twice.
  package static func parse(_ bytes: [UInt8]) throws(TreeError) -> [TreeNode] {
    var nodes: [TreeNode] = []
    try bytes.withRawBytes { (raw) throws(TreeError) -> Void in
      var json = JSONCursor(raw)
      var sawNodes = false
      try json.object { (json, field) throws(TreeError) -> Void in
        guard field == Field.nodes else { return try json.skipValue() }
        sawNodes = true
        if try json.takeNull() { return }
        try json.array { (json) throws(TreeError) -> Void in nodes.append(try node(&json)) }
      }
      try json.expectEnd()
      if !sawNodes { throw json.failure("there is no list of nodes") }
    }
    var isSorted = true
    for index in nodes.indices.dropFirst() where !(nodes[index - 1].name < nodes[index].name) { isSorted = false }
    if !isSorted {
      nodes.sort { $0.name < $1.name }
      for index in nodes.indices.dropFirst() where nodes[index - 1].name == nodes[index].name {
        throw .malformed(why: "the name '\(nodes[index].name)' comes twice", offset: 0)
      }
    }
    return nodes
  }

  private static func node(_ json: inout JSONCursor) throws(TreeError) -> TreeNode {
    var draft = Draft()
    try json.object { (json, field) throws(TreeError) -> Void in try draft.take(field, &json) }
    return try draft.node(json)
  }

  /// A node's fields as they come, in any order.
  private struct Draft {
    var name: [UInt8]?
    var type: [UInt8] = []
    var linkTarget: [UInt8] = []
    var linkTargetRaw: [UInt8]?
    var device: UInt64 = 0
    var node = TreeNode(
      name: "", metadata: FileMetadata(kind: .regular, permissions: 0, modified: Timestamp(nanoseconds: 0), links: 0))

    mutating func take(_ field: [UInt8], _ json: inout JSONCursor) throws(TreeError) {
      if try json.takeNull() { return }
      switch field {
      case Field.name: name = try json.string()
      case Field.type: type = try json.string()
      case Field.mode: node.metadata.permissions = GoFileMode.permissions(try json.uint32())
      case Field.mtime: node.metadata.modified = try time(&json)
      case Field.atime: node.metadata.accessed = try time(&json)
      case Field.ctime: node.metadata.changed = try time(&json)
      case Field.uid: node.metadata.userID = try json.uint32()
      case Field.gid: node.metadata.groupID = try json.uint32()
      case Field.user: node.metadata.userName = String(decoding: try json.string(), as: UTF8.self)
      case Field.group: node.metadata.groupName = String(decoding: try json.string(), as: UTF8.self)
      case Field.inode: node.metadata.inode = try json.uint64()
      case Field.deviceID: node.metadata.device = try json.uint64()
      case Field.size:
        guard let size = Int64(exactly: try json.uint64()) else { throw json.failure("the size is out of range") }
        node.metadata.size = size
      case Field.links: node.metadata.links = try json.uint64()
      case Field.linkTarget: linkTarget = try json.string()
      case Field.linkTargetRaw: linkTargetRaw = try base64(&json)
      case Field.extendedAttributes: node.metadata.extendedAttributes = try attributes(&json)
      case Field.genericAttributes: node.genericAttributes = try json.rawObject()
      case Field.device: device = try json.uint64()
      case Field.content:
        var content: [BlobID] = []
        try json.array { (json) throws(TreeError) -> Void in content.append(try json.digest()) }
        node.content = content
      case Field.subtree: node.subtree = try json.digest()
      case Field.error: node.error = String(decoding: try json.string(), as: UTF8.self)
      default: try json.skipValue()
      }
    }

    func node(_ json: JSONCursor) throws(TreeError) -> TreeNode {
      guard let name, let raw = GoText.unquote(name) else { throw json.failure("a node has no valid name") }
      guard let fileName = FileName(untrusted: raw) else {
        throw json.failure("'\(String(decoding: raw, as: UTF8.self))' can't be a name in a directory")
      }
      var result = node
      result.name = fileName
      switch type {
      case Kind.file: result.metadata.kind = .regular
      case Kind.directory:
        result.metadata.kind = .directory
        if result.subtree == nil { throw json.failure("the directory '\(fileName)' has no subtree") }
      case Kind.symbolicLink:
        let target = linkTargetRaw ?? linkTarget
        if target.contains(0) { throw json.failure("the target of '\(fileName)' has a NUL") }
        result.metadata.kind = .symbolicLink(target: target)
      case Kind.device: result.metadata.kind = .blockDevice(number: device)
      case Kind.characterDevice: result.metadata.kind = .characterDevice(number: device)
      case Kind.fifo: result.metadata.kind = .fifo
      case Kind.socket: result.metadata.kind = .socket
      default: throw .unsupportedKind(String(decoding: type.prefix(64), as: UTF8.self), name: fileName.lossyText)
      }
      if !result.metadata.kind.isRegular { result.content = [] }
      if !result.metadata.kind.isDirectory { result.subtree = nil }
      return result
    }

    private func time(_ json: inout JSONCursor) throws(TreeError) -> Timestamp {
      let text = try json.string()
      guard let time = GoText.time(text) else { throw json.failure("a time is not RFC 3339") }
      return time
    }

    private func base64(_ json: inout JSONCursor) throws(TreeError) -> [UInt8] {
      guard let bytes = GoText.base64(try json.string()) else { throw json.failure("a value is not base64") }
      return bytes
    }

    private func attributes(_ json: inout JSONCursor) throws(TreeError) -> [ExtendedAttribute] {
      var result: [ExtendedAttribute] = []
      try json.array { (json) throws(TreeError) -> Void in
        var attribute = ExtendedAttribute(name: "", value: [])
        try json.object { (json, field) throws(TreeError) -> Void in
          if try json.takeNull() { return }
          switch field {
          case Field.name: attribute.name = String(decoding: try json.string(), as: UTF8.self)
          case Field.value: attribute.value = try base64(&json)
          default: try json.skipValue()
          }
        }
        if attribute.name.isEmpty || attribute.name.utf8.contains(0) {
          throw json.failure("an extended attribute has no valid name")
        }
        result.append(attribute)
      }
      return result
    }
  }

  private enum Field {
    static let nodes = Array("nodes".utf8)
    static let name = Array("name".utf8)
    static let type = Array("type".utf8)
    static let mode = Array("mode".utf8)
    static let mtime = Array("mtime".utf8)
    static let atime = Array("atime".utf8)
    static let ctime = Array("ctime".utf8)
    static let uid = Array("uid".utf8)
    static let gid = Array("gid".utf8)
    static let user = Array("user".utf8)
    static let group = Array("group".utf8)
    static let inode = Array("inode".utf8)
    static let deviceID = Array("device_id".utf8)
    static let size = Array("size".utf8)
    static let links = Array("links".utf8)
    static let linkTarget = Array("linktarget".utf8)
    static let linkTargetRaw = Array("linktarget_raw".utf8)
    static let extendedAttributes = Array("extended_attributes".utf8)
    static let genericAttributes = Array("generic_attributes".utf8)
    static let device = Array("device".utf8)
    static let content = Array("content".utf8)
    static let subtree = Array("subtree".utf8)
    static let error = Array("error".utf8)
    static let value = Array("value".utf8)
  }

  private enum Kind {
    static let file = Array("file".utf8)
    static let directory = Array("dir".utf8)
    static let symbolicLink = Array("symlink".utf8)
    static let device = Array("dev".utf8)
    static let characterDevice = Array("chardev".utf8)
    static let fifo = Array("fifo".utf8)
    static let socket = Array("socket".utf8)
  }
}
