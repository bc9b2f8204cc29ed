// Talk to Symphony in its framed form (docs/wire.md): a msgpack header, then raw tensors at 64-byte boundaries.
//
// Everything that the form needs is here, in C++17 and POSIX sockets alone: a msgpack writer and reader for what
// headers hold, frames of one request or many, and HTTP over one connection. Little-endian machines only.
#pragma once

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace symphony {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kReplyBytesMax = std::size_t{1} << 30;
constexpr int kDepthMax = 16;

// ---- msgpack: as much of it as headers hold ------------------------------------------------------------------------

// Write one msgpack value after the other.
class Packer {
 public:
  void map(std::size_t count) { head(0x80, 15, 0xde, count); }
  void array(std::size_t count) { head(0x90, 15, 0xdc, count); }

  void text(const std::string& value) {
    if (value.size() < 32) {
      byte(0xa0 | value.size());
    } else if (value.size() < 256) {
      byte(0xd9), big(value.size(), 1);
    } else {
      byte(0xda), big(value.size(), 2);
    }
    bytes += value;
  }

  void integer(std::uint64_t value) {
    if (value < 128) {
      byte(value);
    } else if (value < (1u << 8)) {
      byte(0xcc), big(value, 1);
    } else if (value < (1u << 16)) {
      byte(0xcd), big(value, 2);
    } else if (value < (1ull << 32)) {
      byte(0xce), big(value, 4);
    } else {
      byte(0xcf), big(value, 8);
    }
  }

  std::string bytes;

 private:
  void byte(std::uint64_t value) { bytes += static_cast<char>(value); }
  void big(std::uint64_t value, int size) {
    while (size > 0) byte(value >> (8 * --size) & 0xff);
  }
  void head(int fixed, std::size_t fixed_max, int wide, std::size_t count) {
    if (count <= fixed_max) {
      byte(fixed | count);
    } else {
      byte(wide), big(count, 2);
    }
  }
};

// A value that was read: whichever of the members `kind` says.
struct Value {
  enum Kind { kNothing, kInteger, kText, kArray, kMap } kind = kNothing;
  std::int64_t integer = 0;
  std::string text;
  std::vector<Value> array;
  std::vector<std::pair<std::string, Value>> map;

  const Value* find(const std::string& key) const {
    for (const auto& [name, value] : map)
      if (name == key) return &value;
    return nullptr;
  }
  const Value& at(const std::string& key) const {
    const Value* found = find(key);
    if (found == nullptr) throw std::runtime_error("the header has no \"" + key + "\"");
    return *found;
  }
};

// Read msgpack; throw std::runtime_error for what is cut off or malformed. Floats, truths and bytes read as nothing.
class Unpacker {
 public:
  Unpacker(const char* data, std::size_t size) : data_(data), size_(size) {}

  Value read(int depth = 0) {
    if (depth > kDepthMax) throw std::runtime_error("the header nests too deeply");
    Value value;
    const std::uint64_t first = big(1);
    if (first < 0x80 || first >= 0xe0) {
      value.kind = Value::kInteger;
      value.integer = static_cast<std::int8_t>(first);
    } else if (first < 0x90) {
      read_map(value, first & 15, depth);
    } else if (first < 0xa0) {
      read_array(value, first & 15, depth);
    } else if (first < 0xc0) {
      read_text(value, first & 31);
    } else if (first >= 0xcc && first <= 0xcf) {
      value.kind = Value::kInteger;
      value.integer = static_cast<std::int64_t>(big(1 << (first - 0xcc)));
    } else if (first >= 0xd0 && first <= 0xd3) {
      const int size = 1 << (first - 0xd0);
      value.kind = Value::kInteger;
      value.integer = static_cast<std::int64_t>(big(size) << (64 - 8 * size)) >> (64 - 8 * size);
    } else if (first >= 0xd9 && first <= 0xdb) {
      read_text(value, big(1 << (first - 0xd9)));
    } else if (first == 0xdc || first == 0xdd) {
      read_array(value, big(first == 0xdc ? 2 : 4), depth);
    } else if (first == 0xde || first == 0xdf) {
      read_map(value, big(first == 0xde ? 2 : 4), depth);
    } else if (first == 0xca || first == 0xcb) {
      skip(first == 0xca ? 4 : 8);
    } else if (first >= 0xc4 && first <= 0xc6) {
      skip(big(1 << (first - 0xc4)));
    } else if (first != 0xc0 && first != 0xc2 && first != 0xc3) {
      throw std::runtime_error("the header holds a msgpack value of an unknown kind");
    }
    return value;
  }

 private:
  void need(std::uint64_t count) const {
    if (count > size_ - at_) throw std::runtime_error("the header is cut off");
  }
  std::uint64_t big(int size) {
    need(size);
    std::uint64_t value = 0;
    while (size-- > 0) value = value << 8 | static_cast<unsigned char>(data_[at_++]);
    return value;
  }
  void skip(std::uint64_t count) { need(count), at_ += count; }
  void read_text(Value& value, std::uint64_t count) {
    need(count);
    value.kind = Value::kText;
    value.text.assign(data_ + at_, count);
    at_ += count;
  }
  void read_array(Value& value, std::uint64_t count, int depth) {
    need(count);  // each element takes a byte at least
    value.kind = Value::kArray;
    for (std::uint64_t i = 0; i < count; ++i) value.array.push_back(read(depth + 1));
  }
  void read_map(Value& value, std::uint64_t count, int depth) {
    need(2 * count);
    value.kind = Value::kMap;
    for (std::uint64_t i = 0; i < count; ++i) {
      std::string key = read(depth + 1).text;
      value.map.emplace_back(std::move(key), read(depth + 1));
    }
  }

  const char* data_;
  std::size_t size_;
  std::size_t at_ = 0;
};

// ---- frames --------------------------------------------------------------------------------------------------------

// A tensor: `dtype` a code of docs/wire.md ("<f4", "|u1", ...), `data` its elements, little-endian in C order.
struct Tensor {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string data;

  static Tensor of(const std::vector<float>& values) {
    Tensor tensor{"<f4", {static_cast<std::int64_t>(values.size())}, std::string(4 * values.size(), '\0')};
    if (!values.empty()) std::memcpy(tensor.data.data(), values.data(), tensor.data.size());
    return tensor;
  }
  std::vector<float> floats() const {
    if (dtype != "<f4") throw std::runtime_error("the tensor is " + dtype + ", not <f4");
    std::vector<float> values(data.size() / 4);
    if (!values.empty()) std::memcpy(values.data(), data.data(), 4 * values.size());
    return values;
  }
};

using Tensors = std::vector<std::pair<std::string, Tensor>>;

// One request: what is left out is 0 (no timeout of its own: the model's SLO) or empty.
struct Request {
  Tensors inputs;
  std::uint64_t timeout_us = 0;
  std::string id;
};

// One answer: outputs, or an error with its reason (docs/wire.md).
struct Answer {
  Tensors outputs;
  std::string id;
  std::string error;
  std::string reason;
};

inline std::size_t aligned(std::size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

// Write the map of one request, and its tensors behind those in `data`.
inline void write_request(Packer& packer, std::string& data, const Request& request, bool has_version) {
  packer.map(1 + has_version + (request.timeout_us > 0) + !request.id.empty());
  if (has_version) packer.text("v"), packer.integer(1);
  if (!request.id.empty()) packer.text("id"), packer.text(request.id);
  if (request.timeout_us > 0) packer.text("timeout_us"), packer.integer(request.timeout_us);
  packer.text("inputs");
  packer.array(request.inputs.size());
  for (const auto& [name, tensor] : request.inputs) {
    data.resize(aligned(data.size()), '\0');
    packer.map(5);
    packer.text("name"), packer.text(name);
    packer.text("dtype"), packer.text(tensor.dtype);
    packer.text("shape"), packer.array(tensor.shape.size());
    for (const std::int64_t dimension : tensor.shape) packer.integer(dimension);
    packer.text("off"), packer.integer(data.size());
    packer.text("n"), packer.integer(tensor.data.size());
    data += tensor.data;
  }
}

inline std::string frame(const std::string& header, const std::string& data) {
  const auto length = static_cast<std::uint32_t>(header.size());
  std::string body(reinterpret_cast<const char*>(&length), sizeof length);
  body += header;
  body.resize(aligned(body.size()), '\0');
  return body + data;
}

// Return the body of one request.
inline std::string encode(const Request& request) {
  Packer packer;
  std::string data;
  write_request(packer, data, request, true);
  return frame(packer.bytes, data);
}

// Return the body of many requests: each has a deadline and an answer of its own.
inline std::string encode(const std::vector<Request>& requests) {
  Packer packer;
  std::string data;
  packer.map(2);
  packer.text("v"), packer.integer(1);
  packer.text("requests"), packer.array(requests.size());
  for (const Request& request : requests) write_request(packer, data, request, false);
  return frame(packer.bytes, data);
}

inline Answer read_answer(const Value& map, const std::string& body, std::size_t data_at) {
  Answer answer;
  if (const Value* id = map.find("id")) answer.id = id->text;
  if (const Value* error = map.find("error")) {
    answer.error = error->text;
    if (const Value* reason = map.find("reason")) answer.reason = reason->text;
    return answer;
  }
  for (const Value& item : map.at("outputs").array) {
    Tensor tensor{item.at("dtype").text, {}, {}};
    for (const Value& dimension : item.at("shape").array) tensor.shape.push_back(dimension.integer);
    const auto offset = static_cast<std::uint64_t>(item.at("off").integer);
    const auto size = static_cast<std::uint64_t>(item.at("n").integer);
    const std::uint64_t room = body.size() < data_at ? 0 : body.size() - data_at;
    if (size > room || (size > 0 && offset > room - size)) throw std::runtime_error("a tensor ends behind the frame");
    if (size > 0) tensor.data = body.substr(data_at + offset, size);
    answer.outputs.emplace_back(item.at("name").text, std::move(tensor));
  }
  return answer;
}

// Return the answers in the body of a reply with status 200: one, or one for each of many requests.
inline std::vector<Answer> decode(const std::string& body) {
  std::uint32_t length = 0;
  if (body.size() < sizeof length) throw std::runtime_error("the frame is cut off");
  std::memcpy(&length, body.data(), sizeof length);
  if (length > body.size() - sizeof length) throw std::runtime_error("the frame's header is cut off");
  const Value header = Unpacker(body.data() + sizeof length, length).read();
  const std::size_t data_at = aligned(sizeof length + length);
  const Value* many = header.find("responses");
  if (many == nullptr) return {read_answer(header, body, data_at)};
  std::vector<Answer> answers;
  for (const Value& item : many->array) answers.push_back(read_answer(item, body, data_at));
  return answers;
}

// ---- HTTP ----------------------------------------------------------------------------------------------------------

// One connection to a node. Throws std::runtime_error when it breaks or the reply is no HTTP.
class Client {
 public:
  Client(std::string host, const std::string& port) : host_(std::move(host)) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(host_.c_str(), port.c_str(), &hints, &found) != 0) throw std::runtime_error("cannot find " + host_);
    for (const addrinfo* each = found; each != nullptr && socket_ < 0; each = each->ai_next) {
      socket_ = socket(each->ai_family, each->ai_socktype, each->ai_protocol);
      if (socket_ >= 0 && connect(socket_, each->ai_addr, each->ai_addrlen) != 0) {
        close(socket_);
        socket_ = -1;
      }
    }
    freeaddrinfo(found);
    if (socket_ < 0) throw std::runtime_error("cannot connect to " + host_ + ":" + port);
  }
  ~Client() { close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Return the answer to one request, or the answers to many in their order.
  Answer infer(const std::string& model, const Request& request) { return send(model, encode(request)).at(0); }
  std::vector<Answer> infer(const std::string& model, const std::vector<Request>& requests) {
    return send(model, encode(requests));
  }

 private:
  std::vector<Answer> send(const std::string& model, const std::string& body) {
    const std::string type = "application/x-symphony-msgpack";
    write("POST /v2/models/" + model + "/infer HTTP/1.1\r\nHost: " + host_ + "\r\nContent-Type: " + type +
          "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
    std::size_t head_size = std::string::npos;
    while ((head_size = received_.find("\r\n\r\n")) == std::string::npos) receive();
    const std::string head = received_.substr(0, head_size + 2);
    received_.erase(0, head_size + 4);
    const std::size_t size = std::stoul(header_of(head, "content-length").value_or("0"));
    if (size > kReplyBytesMax) throw std::runtime_error("the reply is too large");
    while (received_.size() < size) receive();
    const std::string reply = received_.substr(0, size);
    received_.erase(0, size);
    if (head.size() < 12) throw std::runtime_error("the reply is no HTTP");
    if (head.compare(9, 3, "200") == 0) return decode(reply);
    // An error of the whole call is a msgpack map: {error, reason, model}.
    return {read_answer(Unpacker(reply.data(), reply.size()).read(), reply, 0)};
  }

  static std::optional<std::string> header_of(const std::string& head, const std::string& name) {
    for (std::size_t at = head.find("\r\n"); at + 2 < head.size(); at = head.find("\r\n", at + 2)) {
      const std::size_t colon = head.find(':', at);
      if (colon == std::string::npos) break;
      std::string key = head.substr(at + 2, colon - at - 2);
      for (char& letter : key) letter = static_cast<char>(letter >= 'A' && letter <= 'Z' ? letter + 32 : letter);
      if (key == name) return head.substr(colon + 1, head.find("\r\n", colon) - colon - 1);
    }
    return std::nullopt;
  }

  void write(const std::string& bytes) {
    for (std::size_t sent = 0; sent < bytes.size();) {
      const ssize_t count = ::send(socket_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (count <= 0) throw std::runtime_error("the connection broke while sending");
      sent += static_cast<std::size_t>(count);
    }
  }

  void receive() {
    char piece[1 << 16];
    const ssize_t count = recv(socket_, piece, sizeof piece, 0);
    if (count <= 0) throw std::runtime_error("the connection broke before the reply was whole");
    received_.append(piece, static_cast<std::size_t>(count));
    if (received_.size() > kReplyBytesMax) throw std::runtime_error("the reply is too large");
  }

  std::string host_;
  std::string received_;
  int socket_ = -1;
};

}  // namespace symphony
